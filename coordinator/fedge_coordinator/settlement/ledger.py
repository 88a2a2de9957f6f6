"""Settlement without a chain: the same signed statements in a hash chain of rows in the coordinator's database."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from sqlalchemy import Connection, Engine, insert, select

from fedge_coordinator.settlement.book import Book
from fedge_coordinator.settlement.documents import EpochDocument, RoundBody, RoundRecord, hex_text
from fedge_coordinator.settlement.epochs import cumulative_of, reward_root
from fedge_coordinator.settlement.interface import Backlog, Balance, Domains, JobTerms, SignedBinding
from fedge_coordinator.settlement.ledger_lines import (
    GENESIS,
    CheckpointPublished,
    DeviceRegistered,
    JobOpened,
    Paid,
    PoolFunded,
    RootProposed,
    Statement,
    line_hash,
    write_line,
)
from fedge_coordinator.settlement.ledger_view import LedgerReader
from fedge_coordinator.settlement.registration import record_bindings
from fedge_coordinator.settlement.signer import Signer
from fedge_coordinator.settlement.tables import devices, ledger
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import job_id


class LedgerSettlement:
    """The `Settlement` that anchors nothing outside: whoever runs it can rewrite it from the start, with its keys.

    Args:
        engine: database with the tables of `tables.metadata`.
        committee: members whose keys are here; the first one signs the lines.
        threshold: signatures that authorise a statement.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        committee: Sequence[Signer],
        threshold: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 1 <= threshold <= len(committee):
            raise ValueError(f"a threshold of {threshold} with {len(committee)} members")
        self._engine = engine
        self._committee = tuple(committee)
        self._threshold = threshold
        self._clock = clock
        self._domains = Domains()
        self._book = Book(committee, self._domains)
        self._members = frozenset(member.address for member in committee)
        self._reader = LedgerReader(self._members, threshold)

    @property
    def domains(self) -> Domains:
        """All zero: there is no chain."""
        return self._domains

    async def register_devices(self, bindings: Sequence[SignedBinding], *, connection: Connection | None = None) -> int:
        """See `Settlement.register_devices`."""
        with self._within(connection) as inner:
            new = record_bindings(inner, self._domains.devices, bindings, self._clock())
            for entry in new:
                binding = entry.binding
                self._append(
                    inner,
                    DeviceRegistered(
                        hex_text(binding.device),
                        hex_text(binding.device_id),
                        hex_text(binding.payout),
                        hex_text(binding.nonce),
                        binding.not_after,
                        hex_text(entry.signature),
                    ),
                )
            return len(new)

    async def open_job(self, terms: JobTerms, *, connection: Connection | None = None) -> bytes:
        """See `Settlement.open_job`."""
        name = job_id(terms.fleet, terms.job)
        with self._within(connection) as inner:
            if self._book.open_job(inner, terms):
                hashes = hex_text(terms.spec_hash), hex_text(terms.genesis_model_hash)
                self._append(inner, JobOpened(hex_text(name), terms.fleet, terms.job, *hashes))
                if terms.initial_funds:
                    self._append(inner, PoolFunded(hex_text(name), str(terms.initial_funds)))
        return name

    async def fund(self, name: bytes, amount: int, *, connection: Connection | None = None) -> None:
        """Promise `amount` more token units to a job."""
        with self._within(connection) as inner:
            self._append(inner, PoolFunded(hex_text(name), str(amount)))

    async def publish_checkpoint(self, body: RoundBody, *, connection: Connection | None = None) -> RoundRecord:
        """See `Settlement.publish_checkpoint`."""
        with self._within(connection) as inner:
            record, is_new = self._book.record_round(inner, body)
            if is_new:
                self._append(inner, CheckpointPublished(record.checkpoint, record.signatures))
            return record

    async def settle_epoch(self, name: bytes, *, connection: Connection | None = None) -> EpochDocument | None:
        """See `Settlement.settle_epoch`."""
        with self._within(connection) as inner:
            signed = self._book.record_epoch(inner, name, funded=self._read(inner, name).funded)
            if signed is None:
                return None
            root = reward_root(signed.document)
            self._append(
                inner,
                RootProposed(
                    hex_text(root.job_id),
                    root.epoch,
                    hex_text(root.root),
                    str(root.total),
                    hex_text(root.data_hash),
                    signed.signatures,
                ),
            )
            return signed.document

    async def last_epoch(self, name: bytes) -> EpochDocument | None:
        """See `Settlement.last_epoch`."""
        with self._engine.connect() as connection:
            signed = self._book.epoch(connection, name)
        return None if signed is None else signed.document

    async def claim_all(self, name: bytes) -> int:
        """See `Settlement.claim_all`. A root of the ledger is active at once."""
        with self._engine.begin() as connection:
            signed = self._book.epoch(connection, name)
            if signed is None:
                return 0
            paid = _paid(self._read(connection, name))
            payouts = {row.device: row.payout for row in connection.execute(select(devices))}
            owed = {
                account: total
                for account, total in cumulative_of(signed.document).items()
                if total > paid.get(account, 0)
            }
            for account, total in owed.items():
                amount, recipient = total - paid.get(account, 0), payouts.get(account, account)
                self._append(
                    connection,
                    Paid(hex_text(name), hex_text(account), hex_text(recipient), str(amount), str(total)),
                )
            return len(owed)

    async def balances(self, name: bytes) -> Mapping[bytes, Balance]:
        """See `Settlement.balances`."""
        with self._engine.connect() as connection:
            signed = self._book.epoch(connection, name)
            paid = _paid(self._read(connection, name))
        earned = cumulative_of(None if signed is None else signed.document)
        return {account: Balance(total, paid.get(account, 0)) for account, total in earned.items()}

    async def advance(self) -> Backlog:
        """Nothing waits: what is recorded is settled."""
        return Backlog(waiting=0, unconfirmed=0, failed=0, oldest_age_s=0.0, blocked=())

    async def carried(self, job_id: bytes) -> Mapping[int, bytes]:  # noqa: ARG002 - of no job
        """See `Settlement.carried`."""
        return {}

    async def view(self, job_id: bytes) -> PublicView:
        """See `Settlement.view`.

        Raises:
            LedgerCorruptError: when the ledger was altered.
        """
        with self._engine.connect() as connection:
            return self._read(connection, job_id)

    def lines(self) -> list[bytes]:
        """Return the whole ledger, one canonical JSON document a line, as it is published."""
        with self._engine.connect() as connection:
            return self._lines(connection)

    def close(self) -> None:
        """Nothing to give back."""

    def _within(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self._engine.begin() if connection is None else nullcontext(connection)

    def _lines(self, connection: Connection, first: int = 0) -> list[bytes]:
        rows = select(ledger.c.line).where(ledger.c.sequence >= first).order_by(ledger.c.sequence)
        return [row.line for row in connection.execute(rows)]

    def _read(self, connection: Connection, name: bytes) -> PublicView:
        """Verify what was appended since the last call, and say what all of it says of a job."""
        if self._reader.rows and self._head(connection, self._reader.rows - 1) != self._reader.head:
            # It read lines of a transaction that was then rolled back, or the ledger was altered.
            self._reader = LedgerReader(self._members, self._threshold)
        self._reader.take(self._lines(connection, self._reader.rows))
        return self._reader.view(name)

    def _head(self, connection: Connection, sequence: int) -> bytes:
        line = connection.execute(select(ledger.c.line).where(ledger.c.sequence == sequence)).scalar_one_or_none()
        return b"" if line is None else line_hash(line)

    def _append(self, connection: Connection, statement: Statement) -> None:
        last = connection.execute(select(ledger).order_by(ledger.c.sequence.desc()).limit(1)).one_or_none()
        sequence, previous = (0, GENESIS) if last is None else (last.sequence + 1, line_hash(last.line))
        line = write_line(sequence, previous, statement, self._committee[0])
        connection.execute(insert(ledger).values(sequence=sequence, line=line))


def _paid(view: PublicView) -> dict[bytes, int]:
    return {payment.account: payment.cumulative for payment in view.payments}
