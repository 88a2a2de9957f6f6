"""Carries planned transactions to the chain, each exactly once as far as its effect goes.

The bytes are signed and stored before they are sent, so that after a crash the same bytes are sent again; a node's
"already known" and "nonce too low" then mean: look for the receipt. One transaction is in flight at a time, which keeps
nonces without gaps and lets every gas estimate see its predecessor's effect. Should a transaction be made anew although
the first one took effect, the contracts' own rules (next round, next epoch, cumulative claims) make the second revert.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fedge_coordinator.settlement.contracts import decode_revert
from fedge_coordinator.settlement.errors import RevertError, RpcError, RpcUnavailableError
from fedge_coordinator.settlement.fees import Fee, FeePolicy, suggest_fee
from fedge_coordinator.settlement.finality import confirm, find_receipt
from fedge_coordinator.settlement.interface import Backlog
from fedge_coordinator.settlement.outbox_rows import OutboxRow, OutboxRows, State
from fedge_coordinator.settlement.rpc import JsonRpc, data_bytes, hexed, quantity
from fedge_coordinator.settlement.signer import Signer
from fedge_coordinator.settlement.transaction import Transaction

_log = logging.getLogger(__name__)
_ALREADY_SENT = ("already known", "already imported", "nonce too low", "replacement transaction underpriced")
_CURED_BY_TIME_OR_MONEY = frozenset({"RootPending", "PausedUntil", "TotalOutOfRange", "ERC20InsufficientBalance"})


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """When to wait, when to insist, when to give up.

    Attributes:
        confirmations: blocks on top before a transaction is final; None takes the chain's own `finalized` tag.
        stuck_after_s: age of a bid at which a higher one replaces it.
        max_bids: bids a nonce at most.
        retry_s: wait after a refusal; doubles with each, up to `max_retry_s`.
        max_refusals: counted refusals until a row has failed and waits for a person.
        max_absences: looks at a spent nonce without our receipt until the row is planned anew.
        lease_s: how long another process waits for one that died.
    """

    confirmations: int | None = None
    stuck_after_s: float = 60.0
    max_bids: int = 5
    retry_s: float = 1.0
    max_retry_s: float = 300.0
    max_refusals: int = 12
    max_absences: int = 3
    lease_s: float = 15.0
    fees: FeePolicy = field(default_factory=FeePolicy)


async def _never_done(row: OutboxRow) -> bool:
    return bool(row.state == State.FINAL)


def _no_fault(point: str) -> None:
    del point


class Outbox:
    """One sender's transactions.

    Args:
        rows: the tables.
        rpc: the chain.
        sender: pays for gas.
        policy: see `OutboxPolicy`.
        already_done: says whether the chain shows a row's effect, whoever brought it about.
        fault: called with the name of each step, for tests that crash there.
    """

    def __init__(
        self,
        rows: OutboxRows,
        rpc: JsonRpc,
        sender: Signer,
        *,
        policy: OutboxPolicy | None = None,
        already_done: Callable[[OutboxRow], Awaitable[bool]] = _never_done,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        self._rows = rows
        self._rpc = rpc
        self._sender = sender
        self._policy = policy or OutboxPolicy()
        self._already_done = already_done
        self._fault = fault
        self._holder = secrets.token_hex(16)

    async def advance(self) -> Backlog:
        """Do what can be done now and return what is left. An unreachable chain only leaves a longer backlog.

        Raises:
            WrongChainError: when an endpoint serves another chain than configured.
        """
        try:
            while self._rows.take_lease(self._sender.address, self._holder, self._policy.lease_s):
                await confirm(self._rows, self._rpc, self._policy.confirmations)
                if not await self._step():
                    break
            else:
                _log.info("another process settles for 0x%s", self._sender.address.hex())
        except (RpcUnavailableError, RpcError) as error:
            _log.warning("settlement waits: %s", error)
        return self._rows.backlog()

    def close(self) -> None:
        """Give the lease back."""
        self._rows.release_lease(self._sender.address, self._holder)

    async def _step(self) -> bool:
        """Carry one row on. Returns whether it was mined, so that the next one can follow at once."""
        row = self._rows.in_flight()
        if row is None:
            for planned in self._rows.ready():  # a refused row does not hold up the others
                if await self._sign(planned):
                    row = self._rows.in_flight()
                    break
        return row is not None and row.not_before_ms <= self._rows.now_ms() and await self._carry(row)

    async def _sign(self, row: OutboxRow) -> bool:
        """Estimate, choose a nonce, sign and store. False when the chain refuses, or shows the effect already."""
        if await self._already_done(row):
            self._rows.mark_final(row, "the chain shows the effect already")
            return False
        try:
            estimate = await self._rpc.call("eth_estimateGas", self._call_object(row))
        except RpcError as error:
            revert = decode_revert(error.data) if error.data else error
            counts = isinstance(revert, RevertError) and revert.name not in _CURED_BY_TIME_OR_MONEY
            self._refuse(row, str(revert), counts=counts)
            return False
        fee = await suggest_fee(self._rpc, self._policy.fees)
        pending = await self._rpc.call("eth_getTransactionCount", hexed(self._sender.address), "pending")
        nonce = max(quantity(pending), self._rows.next_own_nonce())
        self._fault("before signing")
        await self._store_bid(row, nonce, quantity(estimate) * 6 // 5, fee)
        self._fault("after signing")
        return True

    async def _store_bid(self, row: OutboxRow, nonce: int, gas: int, fee: Fee) -> None:
        signed = self._sender.sign_transaction(
            Transaction(
                chain_id=await self._rpc.chain_id(),
                nonce=nonce,
                to=row.recipient,
                value_wei=0,
                data=row.calldata,
                gas=gas,
                max_fee_wei=fee.max_fee_wei,
                priority_fee_wei=fee.priority_fee_wei,
            )
        )
        self._rows.store_signed(row, signed, nonce, gas, fee)

    async def _carry(self, row: OutboxRow) -> bool:
        """Send what is signed, then look for a receipt of any of the row's bids. Returns whether there is one."""
        bids = self._rows.signed_transactions(row)
        if row.state == State.SIGNED and not await self._send(row, bids):
            return False
        for bid in bids:
            receipt = await find_receipt(self._rpc, bid.tx_hash)
            if receipt is not None:
                self._fault("before recording the receipt")
                await self._record(row, bid, receipt)
                return True
        await self._insist(row, bids)
        return False

    async def _send(self, row: OutboxRow, bids: list[OutboxRow]) -> bool:
        self._fault("before sending")
        try:
            await self._rpc.call("eth_sendRawTransaction", hexed(bids[0].raw))
        except RpcError as error:
            if not any(phrase in error.message.lower() for phrase in _ALREADY_SENT):
                if error.message != row.error:
                    _log.error("%s %d cannot be sent: %s", row.kind, row.number, error.message)
                self._rows.postpone(row, error.message, self._policy.retry_s)
                await self._outbid(row, bids)
                return False
        self._fault("after sending")
        self._rows.mark_broadcast(row)
        return True

    async def _insist(self, row: OutboxRow, bids: list[OutboxRow]) -> None:
        """No receipt yet: is the nonce spent by another, are the bytes lost, is the bid too low?"""
        nonce = bids[0].nonce
        spent = quantity(await self._rpc.call("eth_getTransactionCount", hexed(self._sender.address), "latest"))
        if spent > nonce:
            if self._rows.count_absence(row) >= self._policy.max_absences:
                self._refuse(row, f"nonce {nonce} was spent by another transaction", counts=True)
        elif await self._rpc.call("eth_getTransactionByHash", hexed(bids[0].tx_hash)) is None:
            await self._send(row, bids)
        else:
            await self._outbid(row, bids)

    async def _outbid(self, row: OutboxRow, bids: list[OutboxRow]) -> None:
        """Sign a higher bid for the same nonce when the newest one is old enough; it is sent at the next step."""
        newest = bids[0]
        age_s = (self._rows.now_ms() - newest.signed_at_ms) / 1000
        fee = Fee(int(newest.max_fee_wei), int(newest.priority_fee_wei))
        raised = fee.raised(self._policy.fees)
        if age_s > self._policy.stuck_after_s and len(bids) < self._policy.max_bids and raised != fee:
            _log.warning("%s %d is stuck; bidding %d wei a gas", row.kind, row.number, raised.max_fee_wei)
            await self._store_bid(row, newest.nonce, newest.gas, raised)

    async def _record(self, row: OutboxRow, bid: OutboxRow, receipt: dict[str, object]) -> None:
        if quantity(receipt.get("status")) == 1:
            block_number, block_hash = quantity(receipt.get("blockNumber")), data_bytes(receipt.get("blockHash"))
            self._rows.mark_mined(row, bid.tx_hash, bid.nonce, block_number, block_hash)
            return
        try:
            await self._rpc.call("eth_call", self._call_object(row), "latest")
            reason = "it would succeed now"
        except RpcError as error:
            reason = str(decode_revert(error.data)) if error.data else error.message
        self._refuse(row, f"mined and reverted: {reason}", counts=True)

    def _call_object(self, row: OutboxRow) -> dict[str, str]:
        return {"from": hexed(self._sender.address), "to": hexed(row.recipient), "data": hexed(row.calldata)}

    def _refuse(self, row: OutboxRow, reason: str, *, counts: bool) -> None:
        if reason != row.error:  # said once, not at every try
            _log.error("%s %d is refused: %s", row.kind, row.number, reason)
        wait_s = min(self._policy.retry_s * 2**row.refusals, self._policy.max_retry_s)
        self._rows.refuse(row, reason, wait_s=wait_s, counts=counts, max_refusals=self._policy.max_refusals)
