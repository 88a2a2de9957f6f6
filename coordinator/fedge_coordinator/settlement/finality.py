"""When a mined transaction is final, and what to do when its block disappears."""

import logging

from fedge_coordinator.settlement.errors import RpcUnavailableError
from fedge_coordinator.settlement.outbox_rows import OutboxRows
from fedge_coordinator.settlement.rpc import JsonRpc, data_bytes, hexed, quantity

_log = logging.getLogger(__name__)


async def find_receipt(rpc: JsonRpc, tx_hash: bytes) -> dict[str, object] | None:
    """Return the receipt of a mined transaction, or None."""
    receipt = await rpc.call("eth_getTransactionReceipt", hexed(tx_hash))
    return receipt if isinstance(receipt, dict) and receipt.get("blockHash") else None


async def confirm(rows: OutboxRows, rpc: JsonRpc, confirmations: int | None) -> None:
    """Move mined rows to final, or back to signed when a reorganisation took their block.

    Raises:
        RpcError, RpcUnavailableError: when the chain cannot be read.
    """
    mined = rows.mined()
    if not mined:
        return
    final_number = await _final_block(rpc, confirmations)
    for row in mined:
        receipt = await find_receipt(rpc, row.tx_hash)
        if receipt is None:
            _log.warning("%s %d: its block %d is gone; sending again", row.kind, row.number, row.block_number)
            rows.mark_reorganised(row)
            return  # later rows are looked at once this one is back
        block_hash, number = data_bytes(receipt["blockHash"]), quantity(receipt.get("blockNumber"))
        if block_hash != row.block_hash:
            rows.mark_mined(row, row.tx_hash, row.nonce, number, block_hash)
        elif number <= final_number:
            rows.mark_final(row)


async def _final_block(rpc: JsonRpc, confirmations: int | None) -> int:
    if confirmations is not None:
        return quantity(await rpc.call("eth_blockNumber")) - confirmations
    block = await rpc.call("eth_getBlockByNumber", "finalized", False)  # noqa: FBT003 - JSON-RPC is positional
    if not isinstance(block, dict):
        raise RpcUnavailableError("the node names no finalized block; set confirmations")
    return quantity(block.get("number"))
