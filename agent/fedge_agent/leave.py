"""Leaves the fleet: tells the CA, then removes membership and keys. May be interrupted anywhere and called again.

`leaving.json` is written first and removed last. While it is there the daemon does not start, and the same command
finishes what was begun. The chain key, which rewards are claimed with, stays unless it is given up by name; with it
stays the record of what was signed, so that the key never signs two receipts for one round.
"""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from fedge_agent.identity import keys, record
from fedge_agent.identity.ca_client import CaClient, Straight, Way
from fedge_agent.identity.errors import CaUnreachableError, IdentityError, KeyFileError, RefusedByCaError
from fedge_agent.identity.files import read_private, sync_folder, write_durably
from fedge_agent.identity.record import Enrolment
from fedge_agent.store import DeviceStore, StoreUnusableError
from fedge_agent.waiting import LEAVING
from fedge_protocol.enrolment import PATH_LEAVE, LeaveAnswer, LeaveRequest

DATABASE: Final = "state.db"
ATTEMPTS: Final = 3
_WAIT_S: Final = 1.0
_MEMBERSHIP: Final = (
    record.RECORD, record.PENDING, keys.IDENTITY_KEY, record.NEXT_KEY, record.CERTIFICATE_PEM, record.CA_PEM,
    record.COORDINATOR_PEM,
)  # fmt: skip
"""Files that go, in this order: without the first the device counts as not enrolled."""
_FOLDERS: Final = ("blobs", "work", "outgoing", "model")
"""Folders that are emptied; they stay, other processes have them in view."""


class Leaving(msgspec.Struct, frozen=True):
    """`leaving.json`: what was asked for, and how far it is. `why_not` is empty when the fleet knows, or was not tried.

    Attributes:
        offline: the fleet is not to be told.
        discard_rewards: the chain key goes too.
        tried: the fleet was told, or could not be.
    """

    device: str
    fleet: str
    offline: bool
    discard_rewards: bool
    tried: bool = False
    why_not: str = ""

    @property
    def told(self) -> bool:
        """Whether the fleet knows."""
        return self.tried and not self.offline and not self.why_not


def begun(state_dir: Path) -> Leaving | None:
    """A leave that was begun and is not finished.

    Raises:
        KeyFileError: its file is exposed or damaged.
    """
    path = state_dir / LEAVING
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_private(path), type=Leaving)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} is damaged ({error}); remove it and give fedge-agent leave again") from None


def begin(state_dir: Path, wanted: Leaving) -> Leaving:
    """Store the decision; from here on the daemon does not start."""
    write_durably(state_dir / LEAVING, msgspec.json.encode(wanted))
    return wanted


def tell(state_dir: Path, leaving: Leaving, sleep: Callable[[float], None], *, way: Way | None = None) -> Leaving:
    """Have the CA revoke this device's certificate, if it can be reached; the outcome is stored before it is returned.

    Args:
        state_dir: of the device.
        leaving: what was begun.
        sleep: pauses between attempts.
        way: how to get to the CA; None: straight.
    """
    if leaving.tried:
        return leaving
    why_not = "" if leaving.offline else _why_not_told(state_dir, sleep, way or Straight())
    return begin(state_dir, msgspec.structs.replace(leaving, tried=True, why_not=why_not))


def _why_not_told(state_dir: Path, sleep: Callable[[float], None], way: Way) -> str:
    try:
        enrolment = record.load(state_dir)
        for attempt in range(ATTEMPTS):
            try:
                _ask(enrolment, way)
            except CaUnreachableError:
                if attempt == ATTEMPTS - 1:
                    raise
                sleep(_WAIT_S)
            else:
                break
    except RefusedByCaError as error:
        return str(error)
    except (IdentityError, OSError) as error:
        return str(error).split("; ")[0]  # the cure of other commands is none here
    return ""


def _ask(enrolment: Enrolment, way: Way) -> None:
    chain = (enrolment.certificate_file, enrolment.key_file)
    client = CaClient(enrolment.record.url, enrolment.record.answer.ca, chain=chain, way=way)
    client.post(PATH_LEAVE, LeaveRequest(enrolment.device_id), LeaveAnswer)


def finish(state_dir: Path, leaving: Leaving) -> None:
    """Remove membership and keys, then the note that it was to be done. Every step may be repeated.

    Raises:
        OSError: something cannot be removed; the note stays.
    """
    for name in _MEMBERSHIP:
        (state_dir / name).unlink(missing_ok=True)
        sync_folder(state_dir)
    for name in _FOLDERS:
        _empty(state_dir / name)
    if leaving.discard_rewards:
        (state_dir / keys.CHAIN_KEY).unlink(missing_ok=True)
        for suffix in ("-wal", "-shm", ""):
            (state_dir / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    else:
        _retire(state_dir / DATABASE)
    sync_folder(state_dir)
    (state_dir / LEAVING).unlink(missing_ok=True)
    sync_folder(state_dir)


def _empty(folder: Path) -> None:
    """Delete what is in a folder, also as root: a link that its owner put there leads nowhere else."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208 - a descriptor
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retire(path: Path) -> None:
    """Delete the prekeys' private halves. A database that is damaged goes whole: nothing in it can be trusted."""
    if not path.exists():
        return
    try:
        store = DeviceStore(path, lambda: 0)
    except StoreUnusableError:
        path.unlink(missing_ok=True)
        return
    try:
        store.retire()
    finally:
        store.close()
