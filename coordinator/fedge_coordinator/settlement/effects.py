"""Whether the chain shows the effect of a planned transaction already, whoever brought it about."""

from collections.abc import Awaitable, Callable
from typing import Any

from fedge_coordinator.settlement.chain_reader import ChainReader
from fedge_coordinator.settlement.contracts import DEVICES, MODELS, REWARDS, load
from fedge_coordinator.settlement.outbox_rows import OutboxRow, OutboxRows
from fedge_protocol.eip712 import Checkpoint, struct_hash

REGISTER, CREATE_JOB, CREATE_POOL, APPROVE, FUND = "register", "create-job", "create-pool", "approve", "fund"
PUBLISH, PROPOSE, CLAIM = "publish", "propose-root", "claim"
_Look = Callable[[OutboxRow], Awaitable[bool]]


class Effects:
    """Reads the effect of each kind of transaction.

    Args:
        reader: the chain.
        rows: the outbox, for what was planned before.
        sender: the account that owns jobs and funds pools.
        token: what pools pay in.
    """

    def __init__(self, reader: ChainReader, rows: OutboxRows, sender: bytes, token: bytes) -> None:
        self._read = reader.read
        self._reader = reader
        self._rows = rows
        self._sender = sender
        self._token = token
        self._by_kind: dict[str, _Look] = {
            REGISTER: self._registered,
            CREATE_JOB: self._job_created,
            CREATE_POOL: self._pool_created,
            FUND: self._funded,
            PUBLISH: self._published,
            PROPOSE: self._proposed,
            CLAIM: self._claimed,
        }

    async def shown(self, row: OutboxRow) -> bool:
        """Say whether a row needs no transaction any more. An approval always does: it lasts until it is spent.

        Raises:
            RpcError, RpcUnavailableError, SettlementError: when the chain cannot be read.
        """
        look = self._by_kind.get(row.kind)
        return look is not None and await look(row)

    async def _registered(self, row: OutboxRow) -> bool:
        bindings, _ = load(DEVICES).decode_call("registerMany", row.calldata)
        return all([(await self._read(DEVICES, "status", binding[1]))[0] for binding in bindings])

    async def _job_created(self, row: OutboxRow) -> bool:
        owner, _, _, _, spec_hash = await self._read(MODELS, "jobs", row.job_id)
        return bool(owner == self._sender and spec_hash == load(MODELS).decode_call("createJob", row.calldata)[1])

    async def _pool_created(self, row: OutboxRow) -> bool:
        return bool((await self._pool(row))[0] == self._token)

    async def _funded(self, row: OutboxRow) -> bool:
        planned = self._rows.of_kind(FUND, row.job_id, row.id)
        target = sum(load(REWARDS).decode_call("fund", entry.calldata)[1] for entry in planned)
        topics = [load(REWARDS).topic("Funded"), row.job_id, bytes(12) + self._sender]
        given = sum([event.arguments["amount"] async for event in self._reader.events(REWARDS, topics)])
        return bool(given >= target)

    async def _published(self, row: OutboxRow) -> bool:
        _, last, _, head, _ = await self._read(MODELS, "jobs", row.job_id)
        fields, _ = load(MODELS).decode_call("publish", row.calldata)
        return bool(last > row.number or (last == row.number and head == struct_hash(Checkpoint(*fields))))

    async def _proposed(self, row: OutboxRow) -> bool:
        pool = await self._pool(row)
        return bool(max(pool[4][2], pool[5][2]) >= row.number)

    async def _claimed(self, row: OutboxRow) -> bool:
        if (await self._pool(row))[4][2] > row.number:
            return True  # a newer root is active: this proof can never hold again, and the newer claims include it
        (claims,) = load(REWARDS).decode_call("claimMany", row.calldata)
        return all([(await self._read(REWARDS, "claimedOf", row.job_id, entry[1]))[0] >= entry[2] for entry in claims])

    async def _pool(self, row: OutboxRow) -> tuple[Any, ...]:
        (pool,) = await self._read(REWARDS, "pools", row.job_id)
        return tuple(pool)
