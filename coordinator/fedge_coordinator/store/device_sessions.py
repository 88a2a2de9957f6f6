"""The newest session of each device, and which devices are duplicates: one identity on more than one disk."""

from dataclasses import dataclass

from sqlalchemy import insert, select, update

from fedge_coordinator.store.clock import ClockMs
from fedge_coordinator.store.database import Database
from fedge_coordinator.store.tables import device_sessions


@dataclass(frozen=True)
class Lineage:
    """What a device that is who it was must remember, and the machine that it ran on; empty where nothing is known."""

    counter: int = 0
    session: bytes = bytes(16)
    ready: bytes = b""
    machine: bytes = b""
    hardware: bytes = b""


@dataclass(frozen=True)
class DuplicateMark:
    """Since when, and why, an identity takes part in nothing."""

    reason: str
    since_ms: int


class DeviceSessions:
    """One row a device. Of one process: who is a duplicate is asked at every message, and kept in memory, too."""

    def __init__(self, database: Database, clock_ms: ClockMs) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._duplicates: dict[str, DuplicateMark] | None = None

    def lineage(self, device: str) -> Lineage:
        """What is known of a device; nothing of one that never said."""
        columns = device_sessions.c
        wanted = select(columns.counter, columns.session, columns.ready, columns.machine, columns.hardware)
        with self._database.transaction() as connection:
            row = connection.execute(wanted.where(columns.device == device)).one_or_none()
        return Lineage() if row is None else Lineage(*row)

    def adopt(self, device: str, counter: int, session: bytes, *, machine: bytes, hardware: bytes) -> None:
        """A session was proved; it is the one to be remembered from now on. What is empty here changes nothing."""
        values: dict[str, object] = {"counter": counter, "session": session}
        values |= {"machine": machine} if machine else {}
        values |= {"hardware": hardware} if hardware else {}
        self._note(device, values)

    def said_ready(self, device: str, message_sha256: bytes) -> None:
        """A READY of the device was taken."""
        self._note(device, {"ready": message_sha256})

    def duplicates(self) -> dict[str, DuplicateMark]:
        """All duplicates by device."""
        if self._duplicates is None:
            columns = device_sessions.c
            wanted = select(columns.device, columns.duplicate, columns.duplicate_at_ms).where(columns.duplicate != "")
            with self._database.transaction() as connection:
                found = connection.execute(wanted).all()
            self._duplicates = {row.device: DuplicateMark(row.duplicate, row.duplicate_at_ms) for row in found}
        return self._duplicates

    def duplicate(self, device: str) -> DuplicateMark | None:
        """Whether, since when and why this one is a duplicate."""
        return self.duplicates().get(device)

    def mark(self, device: str, reason: str) -> None:
        """Two disks speak for this device; until it is accepted again it takes part in nothing. First reason stands."""
        if self.duplicate(device) is None:
            mark = DuplicateMark(reason[:32], self._clock_ms())
            self._note(device, {"duplicate": mark.reason, "duplicate_at_ms": mark.since_ms})
            self.duplicates()[device] = mark

    def accept(self, device: str) -> bool:
        """Let the disk that spoke last speak again, from whatever machine; returns whether it was a duplicate."""
        was = self.duplicate(device) is not None
        self._note(device, {"duplicate": "", "duplicate_at_ms": 0, "machine": b"", "hardware": b""})
        self.duplicates().pop(device, None)
        return was

    def _note(self, device: str, values: dict[str, object]) -> None:
        with self._database.transaction() as connection:
            changed = update(device_sessions).where(device_sessions.c.device == device).values(**values)
            if connection.execute(changed).rowcount:
                return
            unknown = {
                "counter": 0,
                "session": bytes(16),
                "ready": b"",
                "machine": b"",
                "hardware": b"",
                "duplicate": "",
                "duplicate_at_ms": 0,
            }
            connection.execute(insert(device_sessions).values(device=device, **(unknown | values)))
