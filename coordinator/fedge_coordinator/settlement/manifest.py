"""Where the contracts are: written by the deployment, read by coordinator, devices' enrolment and auditors."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fedge_coordinator.settlement.contracts import COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN, load
from fedge_coordinator.settlement.documents import (
    Address,
    Count,
    Hash,
    decode_document,
    encode_document,
    hex_bytes,
    hex_text,
)
from fedge_coordinator.settlement.errors import DocumentError, WrongChainError
from fedge_coordinator.settlement.interface import Domains
from fedge_coordinator.settlement.rpc import JsonRpc, data_bytes, hexed
from fedge_protocol.eip712 import Domain


class DeployedContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One contract: its address, the transaction that made it, and the constructor's arguments as text."""

    address: Address
    tx_hash: Hash
    block: Count
    arguments: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A deployment. `pending_grants` lists roles that the admin must still grant: "Contract.ROLE to 0x..."."""

    version: Literal["fedge.dev/deployment/v1"] = "fedge.dev/deployment/v1"
    chain_id: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    contracts: dict[str, DeployedContract]
    pending_grants: tuple[str, ...] = ()

    def address(self, name: str) -> bytes:
        """Return a contract's 20-byte address.

        Raises:
            DocumentError: when the manifest does not name it.
        """
        if name not in self.contracts:
            raise DocumentError(f"the deployment manifest names no {name}")
        return hex_bytes(self.contracts[name].address)

    def first_block(self) -> int:
        """Return the block before which none of the contracts said anything."""
        return min(contract.block for contract in self.contracts.values())

    def domains(self) -> Domains:
        """Return the EIP-712 domains of the deployment."""
        return Domains(
            devices=Domain(self.chain_id, self.address(DEVICES)),
            models=Domain(self.chain_id, self.address(MODELS)),
            rewards=Domain(self.chain_id, self.address(REWARDS)),
        )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest in canonical JSON."""
    path.write_bytes(encode_document(manifest))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        DocumentError: when the file is not a manifest in canonical form.
        OSError: when it cannot be read.
    """
    return decode_document(Manifest, path.read_bytes())


async def verify_deployment(rpc: JsonRpc, manifest: Manifest) -> None:
    """Compare chain id and code with the manifest and the shipped artefacts (immutables masked).

    A token of another make than the demo's is only required to have code.

    Raises:
        WrongChainError: when another chain or other code is found.
    """
    found = await rpc.chain_id()
    if found != manifest.chain_id:
        raise WrongChainError(f"the endpoint serves chain {found}, the manifest names {manifest.chain_id}")
    for name in (COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN):
        address = manifest.address(name)
        code = data_bytes(await rpc.call("eth_getCode", hexed(address), "latest"))
        if not code or (name != TOKEN and not load(name).is_deployed_as(code)):
            raise WrongChainError(f"{hex_text(address)} does not hold the {name} of this release")
