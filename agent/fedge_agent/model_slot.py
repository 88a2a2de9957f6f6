"""Where the present model of each job lies, for the inference server: put there by the daemon, read by others.

A folder of files: graphs and weights under their SHA-256, and of each job `JOB.json` (current) and `JOB.previous.json`.
A manifest is written after its files and replaced in one step, so a reader finds a whole model or the one before. The
folder's parent keeps strangers out; the server sees the folder alone, read-only.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedge_agent.identity.files import sync_folder
from fedge_protocol.ids import Counter, JobName
from fedge_protocol.messages import MAX_BLOB_BYTES, Offer

MAX_JOBS: Final = 8
MAX_MANIFEST_BYTES: Final = 4096
_CURRENT, _PREVIOUS = ".json", ".previous.json"
_READABLE: Final = 0o644
_FOLDER_MODE: Final = 0o755
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model: its files by SHA-256, and which round it is the start of. `landed_at` is Unix seconds."""

    job: JobName
    round: Counter
    graph: Sha256
    weights: Sha256
    dim: Annotated[int, Meta(ge=1, le=MAX_BLOB_BYTES // 4)]
    landed_at: Counter


class ModelSlots:
    """The daemon's side."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def landed(self, offer: Offer, files: Mapping[bytes, Path]) -> None:
        """Make the model of an offer, whose files are here and verified, its job's current one. Blocking.

        Raises:
            OSError: the disk is full or broken; the former model stays.
        """
        slot = Slot(
            offer.job, offer.round, offer.graph.sha256.hex(), offer.weights.sha256.hex(), offer.dim, int(self._clock())
        )
        before = read_slot(self._folder / f"{offer.job}{_CURRENT}")
        if before is not None and msgspec.structs.replace(before, landed_at=slot.landed_at) == slot:
            return
        self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        self._folder.chmod(_FOLDER_MODE)  # whatever the umask
        for ref in (offer.graph, offer.weights):
            self._share(files[ref.sha256], self._folder / ref.sha256.hex())
        if before is not None:
            self._write(f"{offer.job}{_PREVIOUS}", before)
        self._write(f"{offer.job}{_CURRENT}", slot)
        self._prune()

    def _share(self, source: Path, target: Path) -> None:
        if target.exists():
            return
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            try:
                os.link(source, temporary)  # the same bytes are not written twice; nobody changes a whole blob
            except OSError:
                shutil.copyfile(source, temporary)
                _sync(temporary)
            temporary.chmod(_READABLE)
            temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, name: str, slot: Slot) -> None:
        temporary = self._folder / f".{name}.{secrets.token_hex(8)}"
        try:
            temporary.write_bytes(msgspec.json.encode(slot))
            temporary.chmod(_READABLE)
            _sync(temporary)
            temporary.rename(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _prune(self) -> None:
        """Keep the files of the newest jobs; what a crash left half-made goes too."""
        for old in slots(self._folder)[MAX_JOBS:]:
            for suffix in (_CURRENT, _PREVIOUS):
                (self._folder / f"{old.job}{suffix}").unlink(missing_ok=True)
        manifests = {path.name: slot for path in self._folder.glob("*.json") if (slot := read_slot(path)) is not None}
        wanted = set(manifests) | {name for slot in manifests.values() for name in (slot.graph, slot.weights)}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink()


def slots(folder: Path) -> list[Slot]:
    """The current model of every job, the one that landed last first."""
    found = [slot for path in _manifests(folder) if (slot := read_slot(path)) is not None]
    return sorted(found, key=lambda slot: (-slot.landed_at, slot.job))


def _manifests(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return
    for name in names:
        if name.endswith(_CURRENT) and not name.endswith(_PREVIOUS) and not name.startswith("."):
            yield folder / name


def read_slot(path: Path) -> Slot | None:
    """What a manifest says; None when there is none, or nothing that could be one."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_MANIFEST_BYTES), type=Slot)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
