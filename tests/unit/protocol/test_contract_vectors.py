"""The vectors that the contracts are tested with, computed here too: one truth for Solidity and Python."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fedge_protocol import eip712
from fedge_protocol.merkle import (
    MerkleTree,
    participation_leaf,
    participation_tree,
    reward_leaf,
    standard_tree,
    verify_proof,
)
from fedge_protocol.rewards import participation_v1
from fedge_protocol.secp256k1 import ChainKey, recover_address

VECTORS = Path(__file__).parents[2] / "vectors" / "contracts"
STRUCTS = [eip712.DeviceBinding, eip712.Receipt, eip712.Checkpoint, eip712.Genesis, eip712.RewardRoot]


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.mark.parametrize("kind", STRUCTS)
def test_typed_data_hashes_and_signatures_are_those_of_the_contracts(kind: Any):
    vectors = load("typed_data")
    section = vectors[kind.__name__]
    assert section["type"] == kind.TYPE
    domain = eip712.Domain(int(vectors["chainId"]), raw(vectors["contracts"][section["contract"]]))
    keys = {signer["address"]: ChainKey.from_secret(raw(signer["key"])) for signer in vectors["signers"]}
    assert section["cases"]
    for case in section["cases"]:
        values = [raw(value) if value.startswith("0x") else int(value) for value in case["message"].values()]
        struct = kind(*values)
        assert len(values) == len(dataclasses.fields(kind))
        assert eip712.struct_hash(struct) == raw(case["structHash"])
        digest = eip712.digest(domain, struct)
        assert digest == raw(case["digest"])
        assert keys[case["signer"]].sign_digest(digest) == raw(case["signature"])
        assert recover_address(digest, raw(case["signature"])) == raw(case["signer"])


def test_reward_trees_have_the_roots_and_proofs_of_the_contracts():
    for case in load("merkle")["rewards"]:
        leaves = [
            reward_leaf(raw(case["jobId"]), raw(entry["account"]), int(entry["cumulative"]))
            for entry in case["entries"]
        ]
        check_tree(standard_tree(leaves), leaves, case)


def test_participation_trees_have_the_roots_and_proofs_of_the_contracts():
    for case in load("merkle")["participation"]:
        entries = [(raw(entry["device"]), int(entry["weight"]), raw(entry["updateHash"])) for entry in case["entries"]]
        check_tree(participation_tree(entries), [participation_leaf(*entry) for entry in entries], case)


def check_tree(tree: MerkleTree, leaves: list[bytes], case: dict[str, Any]) -> None:
    assert tree.root == raw(case["root"])
    for index, entry in enumerate(case["entries"]):
        assert leaves[index] == raw(entry["leaf"])
        assert verify_proof(tree.root, leaves[index], [raw(sibling) for sibling in entry["proof"]])
        assert [raw(sibling) for sibling in entry["proof"]] == list(tree.proof(index))


def test_the_split_is_the_one_of_the_exact_fractions():
    for case in load("reward_split")["cases"]:
        accounts = [raw(account) for account in case["accounts"]]
        weights = dict(zip(accounts, map(int, case["weights"]), strict=True))
        shares = participation_v1(int(case["budget"]), weights)
        assert [shares.get(account, 0) for account in accounts] == [int(share) for share in case["shares"]], case[
            "label"
        ]
