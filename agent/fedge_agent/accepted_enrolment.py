"""Which CA and broker root accepted for this device: a file of root's beside the day's budget, first come, first kept.

`identity.json` says them too, but it is the daemon's own file. A daemon that was taken over could write any host into
it, and the allow-list would follow. So the loader keeps those of the first enrolment, and others only by root's word:
`fedge-agent enroll` as root, or by removing the file.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedge_agent.kernel import budget_file
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.text_files import remove

SUFFIX: Final = ".enrolment"
_MAX_BYTES: Final = 1024
Urls = tuple[str, str]
"""Of the CA and of the broker."""


def place_of(pin_dir: Path) -> Path:
    """Where the file is for the agent whose pins are there."""
    return Path(budget_file.DEFAULT_DIRECTORY) / f"{pin_dir.name}{SUFFIX}"


def settle(path: Path, found: Urls, warn: Callable[[str], None]) -> Urls:
    """The places to allow: those accepted before, else `found`, which are accepted by this.

    Raises:
        PolicyError: the file is damaged or others could have written it; the message names the cure.
    """
    accepted = read(path)
    if accepted is None:
        write(path, found)
        return found
    if accepted != found:
        warn(
            f"the enrolment names {' and '.join(found)}, but {' and '.join(accepted)} were accepted and stay allowed; "
            f"if you moved this device or its fleet did: rm {path}"
        )
    return accepted


def replace(pin_dir: Path, urls: Urls) -> None:
    """Root enrols this device anew, which accepts these. Before the first acceptance there is nothing to replace."""
    path = place_of(pin_dir)
    if os.geteuid() == 0 and path.exists():
        write(path, urls)


def forget(pin_dir: Path) -> None:
    """Root takes this device out of its fleet: whichever it joins next is accepted."""
    if os.geteuid() == 0:
        remove(place_of(pin_dir))


def read(path: Path) -> Urls | None:
    """What was accepted; None when nothing was.

    Raises:
        PolicyError: as `settle`.
    """
    cure = f"rm {path} to accept the present enrolment"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}; {cure}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PolicyError(f"{path} belongs to uid {status.st_uid} or others may write it; {cure}")
        lines = file.read(_MAX_BYTES).decode("ascii", "replace").splitlines()
    if len(lines) != 2:  # noqa: PLR2004 - CA and broker
        raise PolicyError(f"{path} is damaged; {cure}")
    return lines[0], lines[1]


def write(path: Path, urls: Urls) -> None:
    """Accepts these, so that a power cut leaves the old file or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    remove(fresh)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("".join(f"{url}\n" for url in urls))
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
