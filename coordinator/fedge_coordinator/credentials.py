"""Secrets that the service manager hands over: `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5)) comes before a file.

systemd decrypts them at the unit's start into memory that only the unit's user reads, so no file of ours keeps them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "CREDENTIALS_DIRECTORY"


def path_of(file: Path, environment: Mapping[str, str] = os.environ, *, name: str | None = None) -> Path:
    """The credential that stands for a secret file, if the service manager gave one, else the file itself.

    Its name is `fedge.` and the file's, as in `fedge.committee.key`, unless `name` says another.
    """
    folder = environment.get(VARIABLE, "")
    found = Path(folder) / (name or f"fedge.{file.name}")
    return found if folder and found.is_file() else file


def holds(path: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a path is a credential: the manager grants it to the unit's user, by owner or by an access list."""
    folder = environment.get(VARIABLE, "")
    return bool(folder) and path.parent == Path(folder)
