"""Deploys the contracts, grants the roles, and writes down where everything is."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fedge_coordinator.settlement.contracts import COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN, decode_revert, load
from fedge_coordinator.settlement.documents import hex_text
from fedge_coordinator.settlement.errors import RevertError, RpcError, RpcUnavailableError
from fedge_coordinator.settlement.fees import FeePolicy, suggest_fee
from fedge_coordinator.settlement.finality import find_receipt
from fedge_coordinator.settlement.manifest import DeployedContract, Manifest
from fedge_coordinator.settlement.rpc import JsonRpc, data_bytes, hexed, quantity
from fedge_coordinator.settlement.signer import Signer
from fedge_coordinator.settlement.transaction import Transaction

_POLLS = 600
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class DeploymentTerms:
    """Who may do what, and how long changes take. Delays in seconds.

    Attributes:
        members: the committee.
        threshold: signatures that authorise a checkpoint or root.
        admin: administers all contracts; give a timelock's address in production.
        registrar: registers devices.
        job_creator: opens jobs.
        guardian: pauses, drops pending roots.
        admin_delay_s: before a change of admin takes effect.
        payout_delay_s: before a device's new payout account takes effect.
        activation_delay_s: between a reward root's proposal and its first payment.
        close_grace_s: between a pool's closing and the withdrawal of the rest.
        demo_supply: units of the demo token minted to the sender.
        token: an existing ERC-20 instead of the demo token.
    """

    members: Sequence[bytes]
    threshold: int
    admin: bytes
    registrar: bytes
    job_creator: bytes
    guardian: bytes
    admin_delay_s: int = 2 * 86400
    payout_delay_s: int = 86400
    activation_delay_s: int = 86400
    close_grace_s: int = 14 * 86400
    demo_supply: int = 10**24
    token: bytes | None = None


async def deploy(rpc: JsonRpc, sender: Signer, terms: DeploymentTerms, *, fees: FeePolicy | None = None) -> Manifest:
    """Deploy committee, registries, distributor and (unless a token is given) the demo token.

    Roles are granted when the sender is the admin; otherwise the manifest lists what the admin must grant.

    Raises:
        RevertError: when a constructor or grant refuses.
        RpcError, RpcUnavailableError: when the chain does not take a transaction within a minute.
    """
    carrier = _Carrier(rpc, sender, fees or FeePolicy())
    members = sorted(terms.members)
    committee = await carrier.create(COMMITTEE, terms.admin_delay_s, terms.admin, members, terms.threshold)
    devices = await carrier.create(DEVICES, terms.admin_delay_s, terms.admin, terms.payout_delay_s)
    models = await carrier.create(MODELS, terms.admin_delay_s, terms.admin, committee)
    await carrier.create(
        REWARDS,
        terms.admin_delay_s,
        terms.admin,
        committee,
        models,
        devices,
        terms.activation_delay_s,
        terms.close_grace_s,
    )
    if terms.token is None:
        token = await carrier.create(TOKEN, sender.address)
        await carrier.send(token, load(TOKEN).encode_call("mint", sender.address, terms.demo_supply))
    else:
        carrier.contracts[TOKEN] = DeployedContract(
            address=hex_text(terms.token), tx_hash=hex_text(bytes(32)), block=carrier.first_block(), arguments=()
        )
    pending = await _grant(carrier, terms)
    return Manifest(chain_id=await rpc.chain_id(), contracts=dict(carrier.contracts), pending_grants=tuple(pending))


async def _grant(carrier: "_Carrier", terms: DeploymentTerms) -> list[str]:
    grants = (
        (DEVICES, "REGISTRAR_ROLE", terms.registrar),
        (MODELS, "JOB_CREATOR_ROLE", terms.job_creator),
        (REWARDS, "GUARDIAN_ROLE", terms.guardian),
    )
    pending = []
    for name, role, account in grants:
        if terms.admin != carrier.sender.address:
            pending.append(f"{name}.{role} to {hex_text(account)}")
            continue
        contract, address = load(name), carrier.address(name)
        answer = await carrier.rpc.call(
            "eth_call", {"to": hexed(address), "data": hexed(contract.encode_call(role))}, "latest"
        )
        (role_hash,) = contract.decode_result(role, data_bytes(answer))
        await carrier.send(address, contract.encode_call("grantRole", role_hash, account))
    return pending


class _Carrier:
    """Sends one transaction after the other and waits for each."""

    def __init__(self, rpc: JsonRpc, sender: Signer, fees: FeePolicy) -> None:
        self.rpc = rpc
        self.sender = sender
        self.contracts: dict[str, DeployedContract] = {}
        self._fees = fees

    def address(self, name: str) -> bytes:
        return bytes.fromhex(self.contracts[name].address[2:])

    def first_block(self) -> int:
        return min(contract.block for contract in self.contracts.values())

    async def create(self, name: str, *arguments: object) -> bytes:
        receipt, tx_hash = await self._transact(None, load(name).deployment(*arguments))
        address = data_bytes(receipt.get("contractAddress"))
        self.contracts[name] = DeployedContract(
            address=hex_text(address),
            tx_hash=hex_text(tx_hash),
            block=quantity(receipt.get("blockNumber")),
            arguments=tuple(_shown(argument) for argument in arguments),
        )
        return address

    async def send(self, to: bytes, data: bytes) -> None:
        await self._transact(to, data)

    async def _transact(self, to: bytes | None, data: bytes) -> tuple[dict[str, object], bytes]:
        call = {"from": hexed(self.sender.address), "data": hexed(data)}
        if to is not None:
            call["to"] = hexed(to)
        try:
            gas = quantity(await self.rpc.call("eth_estimateGas", call))
        except RpcError as error:
            if error.data:
                raise decode_revert(error.data) from None
            raise
        fee = await suggest_fee(self.rpc, self._fees)
        nonce = quantity(await self.rpc.call("eth_getTransactionCount", hexed(self.sender.address), "pending"))
        signed = self.sender.sign_transaction(
            Transaction(
                chain_id=await self.rpc.chain_id(),
                nonce=nonce,
                to=to,
                value_wei=0,
                data=data,
                gas=gas * 6 // 5,
                max_fee_wei=fee.max_fee_wei,
                priority_fee_wei=fee.priority_fee_wei,
            )
        )
        await self.rpc.call("eth_sendRawTransaction", hexed(signed.raw))
        for _ in range(_POLLS):
            receipt = await find_receipt(self.rpc, signed.hash)
            if receipt is not None:
                if quantity(receipt.get("status")) != 1:
                    raise RevertError("Reverted", (signed.hash,))
                return receipt, signed.hash
            await asyncio.sleep(_POLL_S)
        raise RpcUnavailableError(f"transaction 0x{signed.hash.hex()} was not mined within {_POLLS * _POLL_S:.0f} s")


def _shown(argument: object) -> str:
    if isinstance(argument, bytes):
        return hex_text(argument)
    if isinstance(argument, list):
        return "[" + ",".join(_shown(entry) for entry in argument) + "]"
    return str(argument)
