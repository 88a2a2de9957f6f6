"""The outbox's rows: every change of state is one transaction."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Row, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from fedge_coordinator.settlement.errors import EquivocationError
from fedge_coordinator.settlement.fees import Fee
from fedge_coordinator.settlement.interface import Backlog
from fedge_coordinator.settlement.tables import lease, outbox, transactions
from fedge_coordinator.settlement.transaction import SignedTransaction

OutboxRow = Row[tuple[object, ...]]


class State(enum.StrEnum):
    """planned -> signed -> broadcast -> mined -> final, or failed. A refusal leads back to planned."""

    PLANNED = "planned"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    FINAL = "final"
    FAILED = "failed"


_DONE = (State.MINED, State.FINAL)


@dataclass(frozen=True, slots=True)
class Planned:
    """A transaction to make once. (kind, job, number, part) is its name; `after` must be mined before it is tried."""

    kind: str
    job_id: bytes
    number: int
    recipient: bytes
    calldata: bytes
    part: int = 0
    after: int | None = None


class OutboxRows:
    """The tables behind the outbox, with an injected engine and clock (seconds since the epoch)."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def now_ms(self) -> int:
        """Return the clock in milliseconds."""
        return int(self._clock() * 1000)

    def plan(self, connection: Connection, planned: Planned) -> int:
        """Store a transaction within the caller's transaction and return its id; the same again returns the same id.

        Raises:
            EquivocationError: when the name is taken by other calldata.
        """
        row = connection.execute(
            select(outbox).where(
                outbox.c.kind == planned.kind,
                outbox.c.job_id == planned.job_id,
                outbox.c.number == planned.number,
                outbox.c.part == planned.part,
            )
        ).one_or_none()
        if row is not None:
            if (row.recipient, row.calldata) != (planned.recipient, planned.calldata):
                raise EquivocationError(f"{planned.kind} {planned.number} was planned with other calldata")
            return int(row.id)
        now_ms = self.now_ms()
        inserted = connection.execute(
            insert(outbox)
            .values(
                kind=planned.kind,
                job_id=planned.job_id,
                number=planned.number,
                part=planned.part,
                after_id=planned.after,
                recipient=planned.recipient,
                calldata=planned.calldata,
                state=State.PLANNED,
                planned_at_ms=now_ms,
                not_before_ms=now_ms,
                refusals=0,
                absences=0,
            )
            .returning(outbox.c.id)
        )
        return int(inserted.scalar_one())

    def last_id(self, connection: Connection, kinds: tuple[str, ...], job_id: bytes) -> int | None:
        """Return the id of the newest row of these kinds for a job."""
        query = select(func.max(outbox.c.id)).where(outbox.c.kind.in_(kinds), outbox.c.job_id == job_id)
        newest: int | None = connection.execute(query).scalar_one()
        return newest

    def in_flight(self) -> OutboxRow | None:
        """Return the oldest row that is signed and not yet mined (there is one at most, but after a reorganisation)."""
        query = select(outbox).where(outbox.c.state.in_((State.SIGNED, State.BROADCAST))).order_by(outbox.c.id).limit(1)
        with self._engine.connect() as connection:
            return connection.execute(query).one_or_none()

    def ready(self) -> list[OutboxRow]:
        """Return the planned rows whose time has come and whose predecessor is mined, the longest waiting first."""
        before = outbox.alias("before")
        query = (
            select(outbox)
            .outerjoin(before, outbox.c.after_id == before.c.id)
            .where(
                outbox.c.state == State.PLANNED,
                outbox.c.not_before_ms <= self.now_ms(),
                or_(outbox.c.after_id.is_(None), before.c.state.in_(_DONE)),
            )
            .order_by(outbox.c.not_before_ms, outbox.c.id)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query))

    def mined(self) -> list[OutboxRow]:
        """Return the rows that wait for finality, oldest first."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(outbox).where(outbox.c.state == State.MINED).order_by(outbox.c.id)))

    def signed_transactions(self, row: OutboxRow) -> list[OutboxRow]:
        """Return the bids signed for a row with its newest nonce, newest first."""
        query = (
            select(transactions)
            .where(transactions.c.outbox_id == row.id)
            .order_by(transactions.c.nonce.desc(), transactions.c.signed_at_ms.desc())
        )
        with self._engine.connect() as connection:
            bids = list(connection.execute(query))
        return [bid for bid in bids if bid.nonce == bids[0].nonce]

    def next_own_nonce(self) -> int:
        """Return one more than the highest nonce of a mined row, 0 when there is none."""
        with self._engine.connect() as connection:
            highest = connection.execute(select(func.max(outbox.c.nonce)).where(outbox.c.state.in_(_DONE))).scalar_one()
        return 0 if highest is None else highest + 1

    def store_signed(self, row: OutboxRow, signed: SignedTransaction, nonce: int, gas: int, fee: Fee) -> None:
        """Store the bytes that will be sent; only afterwards may they leave the process."""
        with self._engine.begin() as connection:
            known = select(transactions.c.tx_hash).where(transactions.c.tx_hash == signed.hash)
            if connection.execute(known).one_or_none() is None:
                connection.execute(
                    insert(transactions).values(
                        tx_hash=signed.hash,
                        outbox_id=row.id,
                        raw=signed.raw,
                        nonce=nonce,
                        gas=gas,
                        max_fee_wei=str(fee.max_fee_wei),
                        priority_fee_wei=str(fee.priority_fee_wei),
                        signed_at_ms=self.now_ms(),
                    )
                )
            self._set(connection, row, state=State.SIGNED, absences=0)

    def mark_broadcast(self, row: OutboxRow) -> None:
        """The bytes were handed to a node."""
        with self._engine.begin() as connection:
            self._set(connection, row, state=State.BROADCAST, error=None)

    def mark_mined(self, row: OutboxRow, tx_hash: bytes, nonce: int, block_number: int, block_hash: bytes) -> None:
        """A block holds one of the row's transactions and it succeeded."""
        with self._engine.begin() as connection:
            self._set(
                connection,
                row,
                state=State.MINED,
                error=None,
                absences=0,
                tx_hash=tx_hash,
                nonce=nonce,
                block_number=block_number,
                block_hash=block_hash,
            )

    def mark_final(self, row: OutboxRow, note: str | None = None) -> None:
        """Nothing can change it any more (`note`: how, when not by our own transaction)."""
        with self._engine.begin() as connection:
            self._set(connection, row, state=State.FINAL, error=note)

    def mark_reorganised(self, row: OutboxRow) -> None:
        """The block that held the transaction is gone: the same bytes are sent again."""
        with self._engine.begin() as connection:
            self._set(connection, row, state=State.SIGNED, tx_hash=None, nonce=None, block_number=None, block_hash=None)

    def refuse(self, row: OutboxRow, reason: str, *, wait_s: float, counts: bool, max_refusals: int) -> None:
        """Put a row back to planned with the reason; after too many counted refusals it has failed."""
        refusals = row.refusals + 1 if counts else row.refusals
        state = State.FAILED if refusals >= max_refusals else State.PLANNED
        with self._engine.begin() as connection:
            self._set(
                connection,
                row,
                state=state,
                error=reason,
                refusals=refusals,
                absences=0,
                not_before_ms=self.now_ms() + int(wait_s * 1000),
            )

    def postpone(self, row: OutboxRow, reason: str, wait_s: float) -> None:
        """Keep the row's state and look at it again later."""
        with self._engine.begin() as connection:
            self._set(connection, row, error=reason, not_before_ms=self.now_ms() + int(wait_s * 1000))

    def count_absence(self, row: OutboxRow) -> int:
        """Count one more look at which the nonce was spent and no receipt of ours was there."""
        with self._engine.begin() as connection:
            self._set(connection, row, absences=row.absences + 1)
        return int(row.absences) + 1

    def retry_failed(self) -> int:
        """Give failed rows a new set of tries (an operator's decision); returns how many there were."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(outbox)
                .where(outbox.c.state == State.FAILED)
                .values(state=State.PLANNED, refusals=0, not_before_ms=self.now_ms())
            )
            return changed.rowcount

    def unfinished(self, kinds: tuple[str, ...], job_id: bytes) -> int:
        """Return how many rows of these kinds of a job are neither mined, final nor failed."""
        query = select(func.count()).where(
            outbox.c.kind.in_(kinds),
            outbox.c.job_id == job_id,
            outbox.c.state.in_((State.PLANNED, State.SIGNED, State.BROADCAST)),
        )
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def next_part(self, connection: Connection, kind: str, job_id: bytes, number: int) -> int:
        """Return the first free part of a (kind, job, number)."""
        query = select(func.max(outbox.c.part)).where(
            outbox.c.kind == kind, outbox.c.job_id == job_id, outbox.c.number == number
        )
        highest = connection.execute(query).scalar_one()
        return 0 if highest is None else int(highest) + 1

    def of_kind(self, kind: str, job_id: bytes, up_to_id: int) -> list[OutboxRow]:
        """Return a job's rows of one kind up to an id, oldest first."""
        query = select(outbox).where(outbox.c.kind == kind, outbox.c.job_id == job_id, outbox.c.id <= up_to_id)
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(outbox.c.id)))

    def mined_hashes(self, kind: str, job_id: bytes) -> dict[int, bytes]:
        """Return number to transaction hash of a job's mined rows of one kind."""
        query = select(outbox.c.number, outbox.c.tx_hash).where(
            outbox.c.kind == kind, outbox.c.job_id == job_id, outbox.c.state.in_(_DONE), outbox.c.tx_hash.is_not(None)
        )
        with self._engine.connect() as connection:
            return {int(number): bytes(tx_hash) for number, tx_hash in connection.execute(query)}

    def next_number(self, connection: Connection, kind: str, job_id: bytes) -> int:
        """Return the first free number of a (kind, job)."""
        query = select(func.max(outbox.c.number)).where(outbox.c.kind == kind, outbox.c.job_id == job_id)
        highest = connection.execute(query).scalar_one()
        return 0 if highest is None else int(highest) + 1

    def backlog(self) -> Backlog:
        """Return what is not final."""
        query = select(outbox).where(outbox.c.state != State.FINAL).order_by(outbox.c.id)
        with self._engine.connect() as connection:
            rows = list(connection.execute(query))
        waiting = [row for row in rows if row.state in {State.PLANNED, State.SIGNED, State.BROADCAST}]
        return Backlog(
            waiting=len(waiting),
            unconfirmed=sum(row.state == State.MINED for row in rows),
            failed=sum(row.state == State.FAILED for row in rows),
            oldest_age_s=(self.now_ms() - min(row.planned_at_ms for row in waiting)) / 1000 if waiting else 0.0,
            blocked=tuple(f"{row.kind} {row.number}: {row.error}" for row in rows if row.error is not None),
        )

    def take_lease(self, sender: bytes, holder: str, lease_s: float) -> bool:
        """Take or extend the right to spend this sender's nonces; False while another holder's has not run out."""
        now_ms = self.now_ms()
        until_ms = now_ms + int(lease_s * 1000)
        try:
            with self._engine.begin() as connection:
                taken = connection.execute(
                    update(lease)
                    .where(lease.c.sender == sender, or_(lease.c.holder == holder, lease.c.until_ms < now_ms))
                    .values(holder=holder, until_ms=until_ms)
                )
                if taken.rowcount:
                    return True
                if connection.execute(select(lease).where(lease.c.sender == sender)).one_or_none() is not None:
                    return False
                connection.execute(insert(lease).values(sender=sender, holder=holder, until_ms=until_ms))
        except IntegrityError:  # the other one was quicker
            return False
        return True

    def release_lease(self, sender: bytes, holder: str) -> None:
        """Let the next process begin at once."""
        with self._engine.begin() as connection:
            connection.execute(
                update(lease).where(lease.c.sender == sender, lease.c.holder == holder).values(until_ms=0)
            )

    @staticmethod
    def _set(connection: Connection, row: OutboxRow, **values: object) -> None:
        connection.execute(update(outbox).where(outbox.c.id == row.id).values(**values))
