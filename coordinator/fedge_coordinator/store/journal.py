"""The journal of rounds: what was accepted, in order, so that a killed coordinator continues the same round."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fedge_coordinator.states import RoundStatus
from fedge_coordinator.store.clock import ClockMs
from fedge_coordinator.store.database import Database
from fedge_coordinator.store.errors import NotFoundError, RoundClosedError, RoundConflictError
from fedge_coordinator.store.tables import journal, rounds

__all__ = ["JournalEntry", "OpenRound", "RoundJournal", "RoundKey", "RoundStatus", "RoundSummary"]


@dataclass(frozen=True, order=True)
class RoundKey:
    """One attempt at one round of a job. Rounds count from 1, attempts from 0 or 1 as the caller likes."""

    job: str
    round: int
    attempt: int


@dataclass(frozen=True)
class JournalEntry:
    """Something that happened in a round. `seq` is the caller's, unique in the attempt; `body` is opaque here."""

    seq: int
    at_ms: int
    kind: str
    device: str | None
    body: bytes


@dataclass(frozen=True)
class OpenRound:
    """A round attempt as it is, or was, before it ended; `entries` in the order of `seq`."""

    key: RoundKey
    plan: bytes
    entries: tuple[JournalEntry, ...]


@dataclass(frozen=True)
class RoundSummary:
    """One line of a job's history."""

    key: RoundKey
    status: RoundStatus
    opened_at_ms: int
    closed_at_ms: int | None
    entries: int


class RoundJournal:
    """Every call that returns has reached the disk."""

    def __init__(self, database: Database, clock_ms: ClockMs) -> None:
        self._database = database
        self._clock_ms = clock_ms

    def open(self, key: RoundKey, plan: bytes) -> None:
        """Begin an attempt. Again with the same plan changes nothing.

        Raises:
            RoundConflictError: this attempt was begun with another plan.
            RoundClosedError: this attempt is over.
        """
        with self._database.transaction() as connection:
            known = _round(connection, key)
            if known is None:
                connection.execute(
                    insert(rounds).values(
                        job=key.job,
                        round=key.round,
                        attempt=key.attempt,
                        status=RoundStatus.OPEN,
                        plan=plan,
                        opened_at_ms=self._clock_ms(),
                    )
                )
            elif known.status != RoundStatus.OPEN:
                raise RoundClosedError(f"{key} is {known.status}; open the next attempt")
            elif known.plan != plan:
                raise RoundConflictError(f"{key} is open with another plan; open the next attempt")

    def append(self, key: RoundKey, entries: Sequence[JournalEntry]) -> None:
        """Add entries in one transaction: all of them are durable when this returns, or none is there.

        Raises:
            NotFoundError: the attempt was never opened.
            RoundClosedError: the attempt is over.
            RoundConflictError: a `seq` is taken.
        """
        if not entries:
            return
        rows = [
            {
                "job": key.job,
                "round": key.round,
                "attempt": key.attempt,
                "seq": entry.seq,
                "at_ms": entry.at_ms,
                "kind": entry.kind,
                "device": entry.device,
                "body": entry.body,
            }
            for entry in entries
        ]
        try:
            with self._database.transaction() as connection:
                _require_open(connection, key)
                connection.execute(insert(journal), rows)
        except IntegrityError as error:
            raise RoundConflictError(f"{key}: an entry of seq {[entry.seq for entry in entries]} exists") from error

    def load_open(self) -> list[OpenRound]:
        """Every attempt that is neither finished nor aborted, oldest first: what to continue after a start."""
        with self._database.transaction() as connection:
            keys = connection.execute(
                select(rounds)
                .where(rounds.c.status == RoundStatus.OPEN)
                .order_by(rounds.c.opened_at_ms, rounds.c.job, rounds.c.round, rounds.c.attempt)
            ).all()
            return [OpenRound(key, row.plan, tuple(_entries(connection, key))) for row in keys if (key := _key(row))]

    def open_attempt(self, job: str) -> RoundKey | None:
        """The attempt of a job that is open now, the latest if there are several."""
        statement = (
            select(rounds.c.job, rounds.c.round, rounds.c.attempt)
            .where(rounds.c.status == RoundStatus.OPEN, rounds.c.job == job)
            .order_by(rounds.c.round.desc(), rounds.c.attempt.desc())
            .limit(1)
        )
        with self._database.transaction() as connection:
            row = connection.execute(statement).one_or_none()
            return None if row is None else _key(row)

    def last_finished(self, job: str) -> OpenRound | None:
        """The plan and entries of a job's last finished attempt; None when there is none, or it was pruned."""
        with self._database.transaction() as connection:
            row = connection.execute(
                select(rounds)
                .where(rounds.c.job == job, rounds.c.status == RoundStatus.FINISHED)
                .order_by(rounds.c.round.desc(), rounds.c.attempt.desc())
                .limit(1)
            ).one_or_none()
            if row is None or not row.plan:
                return None
            return OpenRound(_key(row), row.plan, tuple(_entries(connection, _key(row))))

    def entries(self, key: RoundKey) -> list[JournalEntry]:
        """The entries of an attempt in order, also when it is over (until `prune`)."""
        with self._database.transaction() as connection:
            return list(_entries(connection, key))

    def finish(self, key: RoundKey, status: RoundStatus, record: bytes) -> None:
        """End an attempt and keep its record. Again with the same arguments changes nothing.

        Raises:
            NotFoundError: the attempt was never opened.
            RoundClosedError: it ended otherwise.
            ValueError: `status` is `open`.
        """
        if status is RoundStatus.OPEN:
            raise ValueError("a round ends as finished or aborted, not as open")
        with self._database.transaction() as connection:
            known = _round(connection, key)
            if known is None:
                raise NotFoundError(f"{key} was never opened")
            if known.status == status and known.record == record:
                return
            if known.status != RoundStatus.OPEN:
                raise RoundClosedError(f"{key} is {known.status} already")
            connection.execute(
                update(rounds)
                .where(_is(rounds.c, key))
                .values(status=status, record=record, closed_at_ms=self._clock_ms())
            )

    def record(self, key: RoundKey) -> bytes | None:
        """What `finish` kept; None for an attempt that is open or unknown."""
        with self._database.transaction() as connection:
            known = _round(connection, key)
            return None if known is None else known.record

    def rounds(self, job: str) -> list[RoundSummary]:
        """All attempts of a job, oldest first."""
        count = (
            select(func.count())
            .select_from(journal)
            .where(journal.c.job == rounds.c.job, journal.c.round == rounds.c.round)
            .where(journal.c.attempt == rounds.c.attempt)
            .scalar_subquery()
            .label("entries")
        )
        statement = (
            select(
                rounds.c.job,
                rounds.c.round,
                rounds.c.attempt,
                rounds.c.status,
                rounds.c.opened_at_ms,
                rounds.c.closed_at_ms,
                count,
            )
            .where(rounds.c.job == job)
            .order_by(rounds.c.round, rounds.c.attempt)
        )
        with self._database.transaction() as connection:
            return [
                RoundSummary(_key(row), RoundStatus(row.status), row.opened_at_ms, row.closed_at_ms, row.entries)
                for row in connection.execute(statement)
            ]

    def last_attempt(self, job: str, round_number: int) -> int | None:
        """The highest attempt at this round so far; None when there was none."""
        with self._database.transaction() as connection:
            highest: int | None = connection.execute(
                select(func.max(rounds.c.attempt)).where(rounds.c.job == job, rounds.c.round == round_number)
            ).scalar()
            return highest

    def prune(self, job: str, before_round: int) -> int:
        """Forget entries and plans (which hold keys) of closed rounds below `before_round`; records stay.

        Returns how many entries went.
        """
        closed = (rounds.c.job == job, rounds.c.round < before_round, rounds.c.status != RoundStatus.OPEN)
        mine = (rounds.c.job == journal.c.job, rounds.c.round == journal.c.round, rounds.c.attempt == journal.c.attempt)
        with self._database.transaction() as connection:
            connection.execute(update(rounds).where(*closed).values(plan=b""))
            return connection.execute(
                delete(journal).where(select(rounds.c.job).where(*closed, *mine).exists())
            ).rowcount


def _is(columns: object, key: RoundKey) -> ColumnElement[bool]:
    job, number, attempt = (getattr(columns, name) for name in ("job", "round", "attempt"))
    return and_(job == key.job, number == key.round, attempt == key.attempt)


def _key(row: Any) -> RoundKey:
    return RoundKey(row.job, row.round, row.attempt)


def _round(connection: Connection, key: RoundKey) -> Row[Any] | None:
    return connection.execute(select(rounds).where(_is(rounds.c, key))).one_or_none()


def _require_open(connection: Connection, key: RoundKey) -> None:
    status = connection.execute(select(rounds.c.status).where(_is(rounds.c, key))).scalar()
    if status is None:
        raise NotFoundError(f"{key} was never opened")
    if status != RoundStatus.OPEN:
        raise RoundClosedError(f"{key} is {status}; it takes no more entries")


def _entries(connection: Connection, key: RoundKey) -> Iterator[JournalEntry]:
    statement = select(journal).where(_is(journal.c, key)).order_by(journal.c.seq)
    for row in connection.execute(statement):
        yield JournalEntry(row.seq, row.at_ms, row.kind, row.device, row.body)
