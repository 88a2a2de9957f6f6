"""Where the programs are that the demo starts."""

import shutil
import sys
from pathlib import Path

from fedge_coordinator.demo.processes import DemoError

REPOSITORY = Path(__file__).resolve().parents[3]
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


def program(name: str) -> str:
    """The path of one of Fedge's own commands, beside the running interpreter.

    Raises:
        DemoError: it is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise DemoError(f"{path} is missing; run scripts/demo, which installs it")
    return str(path)


def find(name: str) -> str | None:
    """The path of a system program, also where a plain user's PATH does not look; None when it is not there."""
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def anvil() -> str | None:
    """The local chain: on the PATH, or installed by npm in contracts/."""
    packages = REPOSITORY / "contracts" / "node_modules" / "@foundry-rs"
    own = next(iter(sorted(packages.glob("anvil-*/bin/anvil"))), None)
    return shutil.which("anvil") or (str(own) if own is not None else None)
