"""Secrets that the service manager hands over: `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5)) comes before a file.

systemd decrypts them at the unit's start into memory that only the unit's user reads, so no file of ours keeps them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "CREDENTIALS_DIRECTORY"
TOKEN: Final = "fedge.enrolment.token"  # noqa: S105 - a name
IDENTITY_KEY: Final = "fedge.identity.key"
CHAIN_KEY: Final = "fedge.chain.key"


def path_of(name: str, otherwise: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The credential of this name if the service manager gave one, else the file `otherwise`."""
    found = given(name, environment)
    return otherwise if found is None else found


def given(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the credential of this name is, or None."""
    folder = environment.get(VARIABLE, "")
    path = Path(folder) / name
    return path if folder and path.is_file() else None


def holds(path: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a path is a credential: the manager grants it to the unit's user, by owner or by an access list."""
    folder = environment.get(VARIABLE, "")
    return bool(folder) and path.parent == Path(folder)
