"""Settlement on an EVM chain: recorded in the book, carried by the outbox."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from sqlalchemy import Connection, Engine

from fedge_coordinator.settlement.book import Book
from fedge_coordinator.settlement.chain_reader import ChainReader
from fedge_coordinator.settlement.checkpoints import checkpoint_of, committee_entries
from fedge_coordinator.settlement.contracts import DEVICES, MODELS, REWARDS, TOKEN, load
from fedge_coordinator.settlement.documents import EpochDocument, RoundBody, RoundRecord
from fedge_coordinator.settlement.effects import (
    APPROVE,
    CLAIM,
    CREATE_JOB,
    CREATE_POOL,
    FUND,
    PROPOSE,
    PUBLISH,
    REGISTER,
    Effects,
)
from fedge_coordinator.settlement.epochs import cumulative_of, reward_root, reward_tree
from fedge_coordinator.settlement.errors import DocumentError
from fedge_coordinator.settlement.interface import Backlog, Balance, Domains, JobTerms, SignedBinding
from fedge_coordinator.settlement.manifest import Manifest
from fedge_coordinator.settlement.outbox import Outbox, OutboxPolicy
from fedge_coordinator.settlement.outbox_rows import OutboxRows, Planned
from fedge_coordinator.settlement.registration import record_bindings
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import Signer
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import ZERO_WORD, job_id

_DEVICES_A_BATCH = 40
_CLAIMS_A_BATCH = 40


class ChainSettlement:
    """The `Settlement` whose statements are verified and kept by the contracts.

    Args:
        engine: database with the tables of `tables.metadata`.
        rpc: the chain.
        manifest: the deployment.
        committee: members whose keys are here; at least the contract's threshold.
        sender: pays for gas, owns the jobs, holds the tokens that fund them; has roles REGISTRAR and JOB_CREATOR.
        policy: of the outbox.
        clock: seconds since the epoch.
        fault: for crash tests, see `Outbox`.
    """

    def __init__(
        self,
        engine: Engine,
        rpc: JsonRpc,
        manifest: Manifest,
        *,
        committee: Sequence[Signer],
        sender: Signer,
        policy: OutboxPolicy | None = None,
        clock: Callable[[], float] = time.time,
        fault: Callable[[str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._manifest = manifest
        self._domains = manifest.domains()
        self._clock = clock
        self._book = Book(committee, self._domains)
        self._reader = ChainReader(rpc, manifest)
        self._rows = OutboxRows(engine, clock)
        effects = Effects(self._reader, self._rows, sender.address, manifest.address(TOKEN))
        options = {} if fault is None else {"fault": fault}
        self._outbox = Outbox(self._rows, rpc, sender, policy=policy, already_done=effects.shown, **options)

    @property
    def domains(self) -> Domains:
        """Where devices' and the committee's signatures count."""
        return self._domains

    async def register_devices(self, bindings: Sequence[SignedBinding], *, connection: Connection | None = None) -> int:
        """See `Settlement.register_devices`."""
        with self._within(connection) as inner:
            new = record_bindings(inner, self._domains.devices, bindings, self._clock())
            for start in range(0, len(new), _DEVICES_A_BATCH):
                batch = new[start : start + _DEVICES_A_BATCH]
                calldata = load(DEVICES).encode_call(
                    "registerMany",
                    [
                        (
                            entry.binding.device_id,
                            entry.binding.device,
                            entry.binding.payout,
                            entry.binding.nonce,
                            entry.binding.not_after,
                        )
                        for entry in batch
                    ],
                    [entry.signature for entry in batch],
                )
                number = self._rows.next_number(inner, REGISTER, ZERO_WORD)
                self._plan(inner, REGISTER, ZERO_WORD, number, DEVICES, calldata)
            return len(new)

    async def open_job(self, terms: JobTerms, *, connection: Connection | None = None) -> bytes:
        """See `Settlement.open_job`. The pool pays in the manifest's token; the sender gives the first funds."""
        name = job_id(terms.fleet, terms.job)
        with self._within(connection) as inner:
            if self._book.open_job(inner, terms):
                calldata = load(MODELS).encode_call("createJob", name, terms.spec_hash, terms.genesis_model_hash)
                created = self._plan(inner, CREATE_JOB, name, 0, MODELS, calldata)
                calldata = load(REWARDS).encode_call("createPool", name, self._manifest.address(TOKEN))
                self._plan(inner, CREATE_POOL, name, 0, REWARDS, calldata, after=created)
                if terms.initial_funds:
                    self._plan_funds(inner, name, terms.initial_funds)
        return name

    async def fund(self, name: bytes, amount: int, *, connection: Connection | None = None) -> None:
        """Move `amount` more token units of the sender into a job's pool. Each call moves money."""
        with self._within(connection) as inner:
            self._plan_funds(inner, name, amount)

    async def publish_checkpoint(self, body: RoundBody, *, connection: Connection | None = None) -> RoundRecord:
        """See `Settlement.publish_checkpoint`."""
        with self._within(connection) as inner:
            record, is_new = self._book.record_round(inner, body)
            if is_new:
                checkpoint = checkpoint_of(record.checkpoint)
                name = checkpoint.job_id
                after = self._rows.last_id(inner, (CREATE_JOB, PUBLISH), name)
                fields = tuple(getattr(checkpoint, field) for field in checkpoint.__slots__)
                calldata = load(MODELS).encode_call("publish", fields, committee_entries(record.signatures))
                self._plan(inner, PUBLISH, name, body.round, MODELS, calldata, after=after)
            return record

    async def settle_epoch(self, name: bytes, *, connection: Connection | None = None) -> EpochDocument | None:
        """See `Settlement.settle_epoch`."""
        with self._within(connection) as inner:
            signed = self._book.record_epoch(inner, name)
            if signed is None:
                return None
            root = reward_root(signed.document)
            after = self._rows.last_id(inner, (CREATE_POOL, FUND, PROPOSE), name)
            fields = tuple(getattr(root, field) for field in root.__slots__)
            calldata = load(REWARDS).encode_call("proposeRoot", fields, committee_entries(signed.signatures))
            self._plan(inner, PROPOSE, name, root.epoch, REWARDS, calldata, after=after)
            return signed.document

    async def last_epoch(self, name: bytes) -> EpochDocument | None:
        """See `Settlement.last_epoch`."""
        with self._engine.connect() as connection:
            signed = self._book.epoch(connection, name)
        return None if signed is None else signed.document

    async def claim_all(self, name: bytes) -> int:
        """See `Settlement.claim_all`. Nothing is begun while earlier claims of the job are under way."""
        if self._rows.unfinished((CLAIM,), name):
            return 0
        document = await self._active_epoch(name)
        if document is None:
            return 0
        cumulative = cumulative_of(document)
        tree = reward_tree(name, cumulative)
        owed = [
            (name, account, total, list(tree.proof(index)))
            for index, (account, total) in enumerate(cumulative.items())
            if total > (await self._reader.read(REWARDS, "claimedOf", name, account))[0]
        ]
        with self._engine.begin() as connection:
            for start in range(0, len(owed), _CLAIMS_A_BATCH):
                calldata = load(REWARDS).encode_call("claimMany", owed[start : start + _CLAIMS_A_BATCH])
                part = self._rows.next_part(connection, CLAIM, name, document.epoch)
                self._plan(connection, CLAIM, name, document.epoch, REWARDS, calldata, part=part)
        return len(owed)

    async def balances(self, name: bytes) -> Mapping[bytes, Balance]:
        """See `Settlement.balances`. What is paid is read from the chain."""
        with self._engine.connect() as connection:
            signed = self._book.epoch(connection, name)
        earned = cumulative_of(None if signed is None else signed.document)
        return {
            account: Balance(total, (await self._reader.read(REWARDS, "claimedOf", name, account))[0])
            for account, total in earned.items()
        }

    async def advance(self) -> Backlog:
        """See `Settlement.advance`."""
        return await self._outbox.advance()

    async def carried(self, job_id: bytes) -> Mapping[int, bytes]:
        """See `Settlement.carried`."""
        return self._rows.mined_hashes(PUBLISH, job_id)

    async def view(self, job_id: bytes) -> PublicView:
        """See `Settlement.view`."""
        return await self._reader.view(job_id)

    def retry_failed(self) -> int:
        """Give every failed transaction a new set of tries; returns how many there were."""
        return self._rows.retry_failed()

    def close(self) -> None:
        """Let another process settle at once."""
        self._outbox.close()

    def _within(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self._engine.begin() if connection is None else nullcontext(connection)

    def _plan(
        self,
        connection: Connection,
        kind: str,
        name: bytes,
        number: int,
        contract: str,
        calldata: bytes,
        *,
        part: int = 0,
        after: int | None = None,
    ) -> int:
        recipient = self._manifest.address(contract)
        return self._rows.plan(connection, Planned(kind, name, number, recipient, calldata, part, after))

    def _plan_funds(self, connection: Connection, name: bytes, amount: int) -> None:
        number = self._rows.next_number(connection, FUND, name)
        after = self._rows.last_id(connection, (CREATE_POOL, FUND), name)
        calldata = load(TOKEN).encode_call("approve", self._manifest.address(REWARDS), amount)
        approved = self._plan(connection, APPROVE, name, number, TOKEN, calldata, after=after)
        self._plan(
            connection, FUND, name, number, REWARDS, load(REWARDS).encode_call("fund", name, amount), after=approved
        )

    async def _active_epoch(self, name: bytes) -> EpochDocument | None:
        (pool,) = await self._reader.read(REWARDS, "pools", name)
        root, _, epoch, _ = pool[4]
        if root == ZERO_WORD:
            return None
        with self._engine.connect() as connection:
            signed = self._book.epoch(connection, name, epoch)
        if signed is None or bytes.fromhex(signed.document.root[2:]) != root:
            raise DocumentError(f"the chain's active root of epoch {epoch} is not in this book; nothing was claimed")
        return signed.document
