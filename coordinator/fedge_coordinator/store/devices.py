"""What the coordinator has seen of each device. Membership itself is the CA's; `revoked` only mirrors it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Row, insert, select, update

from fedge_coordinator.store.clock import ClockMs
from fedge_coordinator.store.database import Database
from fedge_coordinator.store.tables import devices


@dataclass(frozen=True)
class LastRefusal:
    """Why a device last stayed out of a round."""

    reason: str
    detail: str
    at_ms: int


@dataclass(frozen=True)
class Device:
    """A device as last seen. `missing_features` is the bit mask of its presence message."""

    device: str
    first_seen_ms: int
    last_seen_ms: int
    online: bool
    version: str
    missing_features: int
    state: str
    refusal: LastRefusal | None
    revoked: bool


class Devices:
    """All devices ever seen. An unknown device is made by whatever is noted about it first."""

    def __init__(self, database: Database, clock_ms: ClockMs) -> None:
        self._database = database
        self._clock_ms = clock_ms

    def seen(self, device: str) -> None:
        """A valid message of this device arrived."""
        self._note(device, {"last_seen_ms": self._clock_ms()})

    def presence(self, device: str, *, online: bool, version: str, missing_features: int) -> None:
        """A birth (which counts as seen) or a last will (which does not)."""
        values: dict[str, object] = {"online": online, "version": version, "missing_features": missing_features}
        if online:
            values["last_seen_ms"] = self._clock_ms()
        self._note(device, values)

    def refused(self, device: str, reason: str, detail: str) -> None:
        """The device stays out of a round, or a message of it was refused."""
        now_ms = self._clock_ms()
        self._note(
            device,
            {
                "refusal_reason": reason[:32],
                "refusal_detail": detail[:256],
                "refusal_at_ms": now_ms,
                "last_seen_ms": now_ms,
            },
        )

    def set_state(self, device: str, state: str) -> None:
        """Where the device stands, in a word or two for people."""
        self._note(device, {"state": state[:64]})

    def set_revoked(self, device: str, *, revoked: bool) -> None:
        """Mirror what the CA says."""
        self._note(device, {"revoked": revoked})

    def revoked(self) -> frozenset[str]:
        """The devices known to be revoked."""
        with self._database.transaction() as connection:
            return frozenset(connection.execute(select(devices.c.device).where(devices.c.revoked)).scalars())

    def all_offline(self) -> frozenset[str]:
        """Forget who is online: after a start, only retained births tell. Returns who was."""
        with self._database.transaction() as connection:
            before = frozenset(connection.execute(select(devices.c.device).where(devices.c.online)).scalars())
            connection.execute(update(devices).values(online=False))
            return before

    def get(self, device: str) -> Device | None:
        """One device, or None if it was never seen."""
        with self._database.transaction() as connection:
            row = connection.execute(select(devices).where(devices.c.device == device)).one_or_none()
            return None if row is None else _device(row)

    def all(self) -> list[Device]:
        """All devices by id."""
        with self._database.transaction() as connection:
            return [_device(row) for row in connection.execute(select(devices).order_by(devices.c.device))]

    def _note(self, device: str, values: Mapping[str, object]) -> None:
        now_ms = self._clock_ms()
        with self._database.transaction() as connection:
            if connection.execute(update(devices).where(devices.c.device == device).values(**values)).rowcount:
                return
            unseen: dict[str, object] = {
                "first_seen_ms": now_ms,
                "last_seen_ms": now_ms,
                "online": False,
                "version": "",
                "missing_features": 0,
                "state": "",
                "revoked": False,
            }
            connection.execute(insert(devices).values(device=device, **(unseen | dict(values))))


def _device(row: Row[tuple[object, ...]]) -> Device:
    refusal = None
    if row.refusal_reason is not None:
        refusal = LastRefusal(row.refusal_reason, row.refusal_detail, row.refusal_at_ms)
    return Device(
        device=row.device,
        first_seen_ms=row.first_seen_ms,
        last_seen_ms=row.last_seen_ms,
        online=row.online,
        version=row.version,
        missing_features=row.missing_features,
        state=row.state,
        refusal=refusal,
        revoked=row.revoked,
    )
