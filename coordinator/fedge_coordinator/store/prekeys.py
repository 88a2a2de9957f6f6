"""One-time prekeys of devices: published, reserved for a round, burned. Burned is for ever."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, Row, func, insert, select, update

from fedge_coordinator.store.clock import ClockMs
from fedge_coordinator.store.database import Database
from fedge_coordinator.store.errors import PrekeyUnknownError, PrekeyUsedError
from fedge_coordinator.store.journal import RoundKey
from fedge_coordinator.store.tables import prekeys

MAX_FRESH_PER_DEVICE: Final = 256


class PrekeyState(StrEnum):
    """A prekey only ever moves forward through these."""

    FRESH = "fresh"
    RESERVED = "reserved"
    BURNED = "burned"


@dataclass(frozen=True)
class Prekey:
    """One prekey. `statement` is what the device published; `round` is whose it is, unless fresh."""

    device: str
    prekey_id: int
    state: PrekeyState
    statement: bytes
    round: RoundKey | None


@dataclass(frozen=True)
class Added:
    """What became of published prekeys, by id.

    `fresh` are new; `known` were stored already with these bytes, whatever their state is now; `conflicting` are
    stored with other bytes and stay as they were; `surplus` did not fit under `MAX_FRESH_PER_DEVICE`.
    """

    fresh: tuple[int, ...]
    known: tuple[int, ...]
    conflicting: tuple[int, ...]
    surplus: tuple[int, ...]


@dataclass(frozen=True)
class PrekeyCounts:
    """How many prekeys of a device are in each state."""

    fresh: int
    reserved: int
    burned: int


class Prekeys:
    """Prekeys of all devices. The store does not check signatures: hand it verified statements only."""

    def __init__(self, database: Database, clock_ms: ClockMs) -> None:
        self._database = database
        self._clock_ms = clock_ms

    def add(self, device: str, statements: Sequence[tuple[int, bytes]]) -> Added:
        """Store what a device published. A burned or reserved id stays burned or reserved."""
        fresh: list[int] = []
        known: list[int] = []
        conflicting: list[int] = []
        surplus: list[int] = []
        with self._database.transaction() as connection:
            room = MAX_FRESH_PER_DEVICE - _count(connection, device, PrekeyState.FRESH)
            for prekey_id, statement in statements:
                row = _row(connection, device, prekey_id)
                if row is not None:
                    (known if row.statement == statement else conflicting).append(prekey_id)
                elif len(fresh) >= room:
                    surplus.append(prekey_id)
                else:
                    connection.execute(
                        insert(prekeys).values(
                            device=device,
                            prekey_id=prekey_id,
                            state=PrekeyState.FRESH,
                            statement=statement,
                            added_at_ms=self._clock_ms(),
                        )
                    )
                    fresh.append(prekey_id)
        return Added(tuple(fresh), tuple(known), tuple(conflicting), tuple(surplus))

    def get(self, device: str, prekey_id: int) -> Prekey | None:
        """One prekey, in whatever state."""
        with self._database.transaction() as connection:
            row = _row(connection, device, prekey_id)
            return None if row is None else _prekey(row)

    def fresh(self, device: str) -> list[Prekey]:
        """The prekeys that can still be used, lowest id first."""
        statement = (
            select(prekeys)
            .where(prekeys.c.device == device, prekeys.c.state == PrekeyState.FRESH)
            .order_by(prekeys.c.prekey_id)
        )
        with self._database.transaction() as connection:
            return [_prekey(row) for row in connection.execute(statement)]

    def reserve(self, key: RoundKey, chosen: Iterable[tuple[str, int]]) -> None:
        """Give (device, prekey id) pairs to a round attempt: all or none. Again for the same attempt changes nothing.

        Raises:
            PrekeyUnknownError: a pair was never published.
            PrekeyUsedError: a pair is burned, or reserved for another attempt.
        """
        with self._database.transaction() as connection:
            for device, prekey_id in chosen:
                row = _row(connection, device, prekey_id)
                if row is None:
                    raise PrekeyUnknownError(f"device {device} published no prekey {prekey_id}")
                prekey = _prekey(row)
                if prekey.state is PrekeyState.RESERVED and prekey.round == key:
                    continue
                if prekey.state is not PrekeyState.FRESH:
                    raise PrekeyUsedError(f"prekey {prekey_id} of device {device} is {prekey.state} by {prekey.round}")
                connection.execute(
                    update(prekeys)
                    .where(prekeys.c.device == device, prekeys.c.prekey_id == prekey_id)
                    .values(state=PrekeyState.RESERVED, job=key.job, round=key.round, attempt=key.attempt)
                )

    def burn(self, chosen: Iterable[tuple[str, int]]) -> None:
        """Burn (device, prekey id) pairs, whatever their state; unknown ones are remembered as burned, too."""
        with self._database.transaction() as connection:
            for device, prekey_id in chosen:
                mine = (prekeys.c.device == device, prekeys.c.prekey_id == prekey_id)
                if connection.execute(update(prekeys).where(*mine).values(state=PrekeyState.BURNED)).rowcount == 0:
                    connection.execute(
                        insert(prekeys).values(
                            device=device,
                            prekey_id=prekey_id,
                            state=PrekeyState.BURNED,
                            statement=b"",
                            added_at_ms=self._clock_ms(),
                        )
                    )

    def burn_round(self, key: RoundKey) -> int:
        """Burn everything reserved for a round attempt; returns how many."""
        with self._database.transaction() as connection:
            return connection.execute(
                update(prekeys)
                .where(prekeys.c.job == key.job, prekeys.c.round == key.round, prekeys.c.attempt == key.attempt)
                .where(prekeys.c.state == PrekeyState.RESERVED)
                .values(state=PrekeyState.BURNED)
            ).rowcount

    def counts(self, device: str) -> PrekeyCounts:
        """How many prekeys of a device are in each state."""
        with self._database.transaction() as connection:
            return PrekeyCounts(*(_count(connection, device, state) for state in PrekeyState))


def _row(connection: Connection, device: str, prekey_id: int) -> Row[tuple[object, ...]] | None:
    return connection.execute(
        select(prekeys).where(prekeys.c.device == device, prekeys.c.prekey_id == prekey_id)
    ).one_or_none()


def _count(connection: Connection, device: str, state: PrekeyState) -> int:
    statement = select(func.count()).where(prekeys.c.device == device, prekeys.c.state == state)
    return connection.execute(statement).scalar_one()


def _prekey(row: Row[tuple[object, ...]]) -> Prekey:
    owner = None if row.job is None else RoundKey(row.job, row.round, row.attempt)
    return Prekey(row.device, row.prekey_id, PrekeyState(row.state), row.statement, owner)
