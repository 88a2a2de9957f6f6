"""One identity, its disks and the coordinator: both sides' real logic and databases, and a broker that does anything.

Time does not exist here: a test decides what is delivered, dropped, repeated, and when the power goes.
"""

import hashlib
import itertools
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedge_agent.federation.sessions import Sessions as DeviceSide
from fedge_agent.identity.host import Host
from fedge_agent.session_record import SigningStoppedError
from fedge_agent.store import AlreadySignedError, DeviceStore
from fedge_coordinator.federation.lineage import Judgement
from fedge_coordinator.federation.lineage import Sessions as CoordinatorSide
from fedge_coordinator.store.database import Database, open_database
from fedge_coordinator.store.device_sessions import DeviceSessions
from fedge_coordinator.store.tables import metadata
from fedge_protocol.messages import Session, Standing

DEVICE = "d" * 32
HERE = Host(b"m" * 32, b"h" * 32)


class Random:
    """Bytes that never repeat, and that a test can tell apart."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")


@dataclass
class Disk:
    """A state directory with a device that may be on. `host` is the machine it is in."""

    path: Path
    host: Host
    store: DeviceStore | None = None
    side: DeviceSide | None = None

    @property
    def on(self) -> bool:
        return self.store is not None

    @property
    def confirmed(self) -> bool:
        return self.side is not None and self.side.confirmed


class World:
    """Everything under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = Random()
        self.ups: list[Session] = []
        self.downs: list[Standing] = []
        self.taken: dict[int, bytes] = {}
        self._names = itertools.count()
        self._database: Database | None = None
        self.start_coordinator()
        self.disks = [Disk(self._new_path(), HERE)]

    # --- the coordinator

    def start_coordinator(self) -> None:
        """Again, after a crash at any moment: what is not committed is gone."""
        if self._database is not None:
            self._database.close()
        self._database = open_database(self.folder / "coordinator.db")
        metadata.create_all(self._database.engine)
        self.known = DeviceSessions(self._database, lambda: 1)
        self.coordinator = CoordinatorSide(self.known, self.random)

    def back_up_coordinator(self) -> Path:
        target = self._new_path()
        _dump(self.folder / "coordinator.db", target)
        return target

    def restore_coordinator(self, backup: Path) -> None:
        if self._database is not None:
            self._database.close()
        for path in self.folder.glob("coordinator.db*"):
            path.unlink()
        shutil.copy(backup, self.folder / "coordinator.db")
        self.start_coordinator()

    def hear(self, said: Session, *, answered: bool = True) -> Judgement:
        """The coordinator takes a SESSION; its answers are on their way unless it dies before it can send them."""
        marked = self.known.duplicate(DEVICE) is not None
        judgement = self.coordinator.judge(DEVICE, said)
        assert not (marked and judgement.welcome), "nobody is welcome while the identity is marked"
        if answered:
            self.downs += judgement.answers
        return judgement

    # --- disks

    def power_on(self, disk: Disk) -> None:
        disk.store = DeviceStore(disk.path, lambda: 1)
        disk.side = DeviceSide(DEVICE, disk.store, disk.host, self.random)

    def power_off(self, disk: Disk) -> None:
        if disk.store is not None:
            disk.store.close()
        disk.store = disk.side = None

    def connect(self, disk: Disk) -> None:
        """The broker knows one client of this name: whoever was connected is no more."""
        for other in self.disks:
            if other.side is not None:
                other.side.end()
        if not disk.on:
            self.power_on(disk)
        if disk.side is not None and not disk.side.over:
            disk.side.begin()

    def say(self, disk: Disk) -> None:
        """What the device has to say of its session is on its way."""
        if disk.side is not None and disk.side.pending is not None:
            self.ups.append(disk.side.pending)

    def deliver(self, standing: Standing) -> None:
        """To everybody: who is not meant has to notice."""
        for disk in self.disks:
            if disk.side is not None:
                disk.side.answered(standing)

    def settle(self, disk: Disk, *, steps: int = 6) -> None:
        """A device connects and everybody answers, with nothing lost; or no more than so many steps of that."""
        self.connect(disk)
        before = len(self.downs)
        for step in range(steps):
            match step % 3:
                case 0:
                    self.say(disk)
                case 1 if disk.side is not None and disk.side.pending is not None:
                    before = len(self.downs)
                    self.hear(disk.side.pending)
                case 2:
                    for standing in self.downs[before:]:
                        self.deliver(standing)

    def copy(self, disk: Disk, host: Host) -> Disk:
        """What is on a disk now is on another one, too."""
        made = Disk(self._new_path(), host)
        if disk.path.exists():
            _dump(disk.path, made.path)
        self.disks.append(made)
        return made

    def snapshot(self, disk: Disk) -> Path:
        target = self._new_path()
        if disk.path.exists():
            _dump(disk.path, target)
        return target

    def restore(self, disk: Disk, snapshot: Path) -> None:
        self.power_off(disk)
        for path in disk.path.parent.glob(f"{disk.path.name}*"):
            path.unlink()
        if snapshot.exists():
            shutil.copy(snapshot, disk.path)

    def ready(self, disk: Disk, round_: int) -> bytes | None:
        """What a confirmed device signs for a round and the coordinator takes, unless it is none to be heard.

        Returns the message, or None when nothing left the device.
        """
        if disk.store is None or not disk.confirmed:
            return None
        try:
            message = disk.store.sign_once("job", round_, 0, "ready", self.random(32), lambda body: body)
        except (AlreadySignedError, SigningStoppedError):
            return None
        if self.known.duplicate(DEVICE) is None and round_ not in self.taken:
            self.taken[round_] = message
            self.known.said_ready(DEVICE, hashlib.sha256(message).digest())
        return message

    def close(self) -> None:
        for disk in self.disks:
            self.power_off(disk)
        if self._database is not None:
            self._database.close()

    def _new_path(self) -> Path:
        return self.folder / f"{next(self._names)}.db"


def _dump(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as database:
        database.execute("VACUUM INTO ?", (str(target),))
