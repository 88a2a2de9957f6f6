"""Write the vectors that forge and pytest share: EIP-712 hashes and signatures, Merkle trees, reward splits.

An oracle apart from both sides: eth-account signs and hashes typed data, eth-abi encodes, the Merkle tree is defined by
recursion, and the split is computed with fractions. Nothing of Fedge is imported. Integers are decimal strings, since
JSON readers lose digits above 2^53.

`python tests/vectors/contracts/generate.py` writes the files; `--check` fails when they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

HERE = Path(__file__).resolve().parent
CHAIN_ID = 31337
CONTRACTS = {
    "DeviceRegistry": "0x00000000000000000000000000000000000fed91",
    "ModelRegistry": "0x00000000000000000000000000000000000fed92",
    "RewardDistributor": "0x00000000000000000000000000000000000fed93",
}
TYPES = {
    "DeviceRegistry": (
        "DeviceBinding(bytes32 deviceId,address device,address payout,bytes32 nonce,uint64 notAfter)",
        "Receipt(bytes32 jobId,uint64 round,uint32 attempt,bytes32 bucketRoot,bytes32 updateHash)",
        "PayoutChange(address device,address payout,uint64 nonce,uint64 notAfter)",
    ),
    "ModelRegistry": (
        (
            "Checkpoint(bytes32 jobId,uint64 round,bytes32 parent,bytes32 modelHash,bytes32 aggregateHash,"
            "bytes32 cohortRoot,bytes32 participationRoot,bytes32 metricsHash,uint64 participants,uint64 totalWeight)"
        ),
        "Genesis(bytes32 jobId,bytes32 specHash,bytes32 genesisModelHash)",
    ),
    "RewardDistributor": (
        "RewardRoot(bytes32 jobId,uint64 epoch,bytes32 root,uint128 total,bytes32 dataHash)",
        "ClaimTo(bytes32 jobId,address account,address recipient,uint256 cumulative,uint64 notAfter)",
    ),
}
CASES_PER_TYPE = 5
TREE_SIZES = (1, 2, 3, 5, 8, 33)


def word(*label: object) -> bytes:
    """32 bytes that depend on the label alone."""
    return keccak(text="fedge vectors/" + "/".join(map(str, label)))


def number(bits: int, *label: object) -> int:
    """An integer below 2^bits that depends on the label alone."""
    return int.from_bytes(word(*label), "big") % (1 << bits)


def signer_key(index: int) -> bytes:
    """Private key of the test signer `index`: public knowledge, worth nothing."""
    return word("signer", index)


def field(kind: str, case: int, *label: object) -> bytes | int:
    """Value of a field: the type's largest in case 0, its smallest in case 1, arbitrary from case 2 on."""
    if kind == "bytes32":
        return {0: b"\xff" * 32, 1: bytes(32)}.get(case, word(*label, case))
    if kind == "address":
        return {0: b"\xff" * 20, 1: bytes(19) + b"\x01"}.get(case, word(*label, case)[:20])
    bits = int(kind.removeprefix("uint"))
    return {0: (1 << bits) - 1, 1: 0}.get(case, number(bits, *label, case))


def shown(value: bytes | int) -> str:
    """A value as it stands in the file."""
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def typed_case(contract: str, name: str, members: list[list[str]], case: int) -> dict[str, Any]:
    """One message of a type, its members as (type, name), with its hashes and the signature of signer `case % 3`."""
    signer = Account.from_key(signer_key(case % 3))
    message = {key: field(kind, case, name, key) for kind, key in members}
    if "device" in message:
        message["device"] = bytes.fromhex(signer.address[2:])  # so that the registry accepts the signature
    signable = encode_typed_data(
        domain_data={
            "name": "Fedge",
            "version": "1",
            "chainId": CHAIN_ID,
            "verifyingContract": CONTRACTS[contract],
        },
        message_types={name: [{"name": key, "type": kind} for kind, key in members]},
        message_data=message,
    )
    signed = signer.sign_message(signable)
    return {
        "message": {key: shown(value) for key, value in message.items()},
        "structHash": shown(bytes(signable.body)),
        "digest": shown(bytes(signed.message_hash)),
        "signer": signer.address.lower(),
        "signature": shown(bytes(signed.signature)),
    }


def typed_data() -> dict[str, Any]:
    """The file `typed_data.json`: for every type its type string and cases with members in their order."""
    document: dict[str, Any] = {
        "chainId": str(CHAIN_ID),
        "contracts": CONTRACTS,
        "signers": [
            {"address": Account.from_key(key).address.lower(), "key": shown(key)} for key in map(signer_key, range(3))
        ],
    }
    for contract, types in TYPES.items():
        for text in types:
            name, _, members = text.removesuffix(")").partition("(")
            pairs = [member.split(" ") for member in members.split(",")]
            cases = [typed_case(contract, name, pairs, case) for case in range(CASES_PER_TYPE)]
            document[name] = {"type": text, "contract": contract, "cases": cases}
    return document


def double_hash(types: list[str], values: list[Any]) -> bytes:
    """Leaf of OpenZeppelin's StandardMerkleTree."""
    return keccak(keccak(encode(types, values)))


def node(leaves: list[bytes], index: int) -> bytes:
    """Node `index` of the complete binary tree whose last `len(leaves)` nodes are the leaves, reversed."""
    if index >= len(leaves) - 1:
        return leaves[2 * len(leaves) - 2 - index]
    return keccak(b"".join(sorted((node(leaves, 2 * index + 1), node(leaves, 2 * index + 2)))))


def proof(leaves: list[bytes], leaf_index: int) -> list[str]:
    """Siblings from a leaf to the root."""
    index = 2 * len(leaves) - 2 - leaf_index
    path = []
    while index:
        path.append(shown(node(leaves, index - 1 if index % 2 == 0 else index + 1)))
        index = (index - 1) // 2
    return path


def reward_tree(size: int) -> dict[str, Any]:
    """A reward tree: leaves sorted by their hash, entries in the order of accounts."""
    job = keccak(text="factory/vibration")
    entries = sorted((word("account", size, i)[:20], number(96, "cumulative", size, i)) for i in range(size))
    leaves = [double_hash(["bytes32", "address", "uint256"], [job, account, amount]) for account, amount in entries]
    ordered = sorted(leaves)
    return {
        "jobId": shown(job),
        "root": shown(node(ordered, 0)),
        "total": str(sum(amount for _, amount in entries)),
        "entries": [
            {
                "account": shown(account),
                "cumulative": str(amount),
                "leaf": shown(leaf),
                "proof": proof(ordered, ordered.index(leaf)),
            }
            for (account, amount), leaf in zip(entries, leaves, strict=True)
        ],
    }


def participation_tree(size: int) -> dict[str, Any]:
    """A participation tree: leaves in ascending order of the device's address."""
    entries = sorted(
        (word("device", size, i)[:20], number(64, "weight", size, i), word("update", size, i)) for i in range(size)
    )
    leaves = [double_hash(["address", "uint64", "bytes32"], list(entry)) for entry in entries]
    return {
        "root": shown(node(leaves, 0)),
        "entries": [
            {
                "device": shown(device),
                "weight": str(weight),
                "updateHash": shown(update),
                "leaf": shown(leaves[i]),
                "proof": proof(leaves, i),
            }
            for i, (device, weight, update) in enumerate(entries)
        ],
    }


def split(budget: int, weights: list[int], label: str) -> dict[str, Any]:
    """participation-v1: proportional, whole units, what is left to the largest remainders, then the lowest address."""
    addresses = sorted(word("split", label, i)[:20] for i in range(len(weights)))
    exact = [Fraction(budget * weight, sum(weights)) for weight in weights]
    shares = [int(share) for share in exact]
    winners = sorted(range(len(weights)), key=lambda i: (shares[i] - exact[i], addresses[i]))
    for i in winners[: budget - sum(shares)]:
        shares[i] += 1
    return {
        "label": label,
        "budget": str(budget),
        "accounts": [shown(address) for address in addresses],
        "weights": [str(weight) for weight in weights],
        "shares": [str(share) for share in shares],
    }


def splits() -> list[dict[str, Any]]:
    """The cases of `reward_split.json`."""
    many = [number(10, "many", i) for i in range(40)]
    return [
        split(10**18, [1], "one takes all"),
        split(100, [1, 1, 1], "equal weights, one unit left"),
        split(2, [1, 1, 1, 1, 1], "fewer units than devices"),
        split(0, [3, 4], "nothing to share"),
        split(7, [0, 5, 0, 2], "weight zero earns nothing"),
        split(1000, [1, 2, 3, 4, 5, 6, 7], "different remainders"),
        split(1000, [2, 2, 3, 3, 3], "tied remainders"),
        split((1 << 128) - 1, many, "the largest budget"),
        split(123456789012345678901234567, [*many, (1 << 64) - 1], "the largest weight"),
    ]


def files() -> dict[str, str]:
    """Name and text of every vector file."""
    documents = {
        "typed_data.json": typed_data(),
        "merkle.json": {
            "rewards": [reward_tree(size) for size in TREE_SIZES],
            "participation": [participation_tree(size) for size in TREE_SIZES],
        },
        "reward_split.json": {"cases": splits()},
    }
    return {name: json.dumps(document, indent=1) + "\n" for name, document in documents.items()}


def main() -> int:
    """Write or check the files; exit code 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Write the vectors shared by forge and pytest.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    check: bool = parser.parse_args().check
    differing = [
        name for name, text in files().items() if not (HERE / name).exists() or (HERE / name).read_text() != text
    ]
    if check:
        sys.stdout.write(f"{len(differing)} stale vector files {' '.join(differing)}\n")
        return 1 if differing else 0
    for name, text in files().items():
        (HERE / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
