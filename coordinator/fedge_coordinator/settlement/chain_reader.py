"""Reads what the contracts say. Needs no key: this is also how an auditor looks at the chain."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fedge_coordinator.settlement.contracts import COMMITTEE, DEVICES, MODELS, REWARDS, Event, load
from fedge_coordinator.settlement.errors import RpcError, RpcUnavailableError
from fedge_coordinator.settlement.manifest import Manifest
from fedge_coordinator.settlement.rpc import JsonRpc, data_bytes, hexed, quantity
from fedge_coordinator.settlement.view import Payment, PublicView, RegisteredDevice
from fedge_protocol.eip712 import Checkpoint, RewardRoot

_LOG_RANGE_BLOCKS = 10_000


class ChainReader:
    """Calls and logs of one deployment."""

    def __init__(self, rpc: JsonRpc, manifest: Manifest) -> None:
        self._rpc = rpc
        self._manifest = manifest

    async def read(self, name: str, function: str, *arguments: object) -> tuple[Any, ...]:
        """Return the answer of a view function at the latest block.

        Raises:
            RpcError, RpcUnavailableError, SettlementError: when there is no answer of the function's type.
        """
        contract = load(name)
        call = {
            "to": hexed(self._manifest.address(name)),
            "data": hexed(contract.encode_call(function, *arguments)),
        }
        return contract.decode_result(function, data_bytes(await self._rpc.call("eth_call", call, "latest")))

    async def events(self, name: str, topics: Sequence[bytes | None]) -> AsyncIterator[Event]:
        """Yield a contract's events with these topics (None: any) in the order of the chain.

        Ranges of blocks are halved when a node finds one too large.

        Raises:
            RpcError: when a node refuses even a single block.
        """
        contract = load(name)
        last = quantity(await self._rpc.call("eth_blockNumber"))
        start, width = self._manifest.first_block(), _LOG_RANGE_BLOCKS
        while start <= last:
            query = {
                "address": hexed(self._manifest.address(name)),
                "topics": [None if topic is None else hexed(topic) for topic in topics],
                "fromBlock": hexed(start),
                "toBlock": hexed(min(start + width - 1, last)),
            }
            try:
                logs = await self._rpc.call("eth_getLogs", query)
            except RpcError:
                if width == 1:
                    raise
                width //= 2
                continue
            if not isinstance(logs, list):
                raise RpcUnavailableError("the node sent no list of logs")
            for log in logs:
                event = contract.decode_log(
                    [data_bytes(topic) for topic in log["topics"]],
                    data_bytes(log["data"]),
                    quantity(log["blockNumber"]),
                    data_bytes(log["transactionHash"]),
                )
                if event is not None:
                    yield event
            start += width

    async def view(self, job_id: bytes) -> PublicView:
        """Read everything public about a job.

        Raises:
            RpcError, RpcUnavailableError, SettlementError: when the chain cannot be read.
        """
        domains = self._manifest.domains()
        genesis = [event async for event in self._job_events(MODELS, "JobCreated", job_id)]
        spec_hash, model_hash = (
            (genesis[0].arguments["specHash"], genesis[0].arguments["genesisModelHash"])
            if genesis
            else (bytes(32), bytes(32))
        )
        (pool,) = await self.read(REWARDS, "pools", job_id)
        changes = [event async for event in self.events(COMMITTEE, [load(COMMITTEE).topic("CommitteeChanged")])]
        return PublicView(
            source=f"chain {self._manifest.chain_id}",
            job_id=job_id,
            spec_hash=spec_hash,
            genesis_model_hash=model_hash,
            checkpoints=tuple(
                [
                    (event.arguments["head"], Checkpoint(*event.arguments["checkpoint"]))
                    async for event in self._job_events(MODELS, "CheckpointPublished", job_id)
                ]
            ),
            reward_roots=tuple(
                [
                    RewardRoot(job_id, *(event.arguments[key] for key in ("epoch", "root", "total", "dataHash")))
                    async for event in self._job_events(REWARDS, "RootProposed", job_id)
                ]
            ),
            dropped_epochs=frozenset(
                [event.arguments["epoch"] async for event in self._job_events(REWARDS, "RootDropped", job_id)]
            ),
            payments=tuple(
                [
                    Payment(*(event.arguments[key] for key in ("account", "recipient", "amount", "cumulative")))
                    async for event in self._job_events(REWARDS, "Claimed", job_id)
                ]
            ),
            devices=await self._devices(),
            funded=pool[2],
            committee=frozenset(member for change in changes for member in change.arguments["members"]),
            threshold=min((change.arguments["threshold"] for change in changes), default=1),
            devices_domain=domains.devices,
            models_domain=domains.models,
            rewards_domain=domains.rewards,
        )

    def _job_events(self, name: str, event: str, job_id: bytes) -> AsyncIterator[Event]:
        return self.events(name, [load(name).topic(event), job_id])

    async def _devices(self) -> dict[bytes, RegisteredDevice]:
        contract = load(DEVICES)
        found: dict[bytes, RegisteredDevice] = {}
        async for event in self.events(DEVICES, [contract.topic("DeviceRegistered")]):
            device, payout = event.arguments["device"], event.arguments["payout"]
            found[device] = RegisteredDevice(event.arguments["deviceId"], frozenset({payout}))
        async for event in self.events(DEVICES, [contract.topic("PayoutProposed")]):
            device, payout = event.arguments["device"], event.arguments["payout"]
            if device in found:
                found[device] = RegisteredDevice(found[device].device_id, found[device].payouts | {payout})
        return found
