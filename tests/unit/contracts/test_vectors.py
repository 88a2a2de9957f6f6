"""The vectors of `tests/vectors/contracts`, which forge checks against the contracts, against the Python side."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedge_protocol import eip712
from fedge_protocol.merkle import participation_leaf, participation_tree, reward_leaf, standard_tree, verify_proof
from fedge_protocol.rewards import participation_v1

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "contracts"
STRUCTS: dict[str, Any] = {
    "DeviceBinding": eip712.DeviceBinding,
    "Receipt": eip712.Receipt,
    "Checkpoint": eip712.Checkpoint,
    "Genesis": eip712.Genesis,
    "RewardRoot": eip712.RewardRoot,
}


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def value(text: str) -> bytes | int:
    return raw(text) if text.startswith("0x") else int(text)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contract_vectors", VECTORS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["typed_data.json", "merkle.json", "reward_split.json"])
def test_the_vector_files_are_what_the_generator_writes(generator, name):
    assert (VECTORS / name).read_text() == generator.files()[name]


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_hashes_and_digests_are_those_of_the_contracts(name):
    document = load("typed_data.json")
    typed = document[name]
    assert typed["type"] == STRUCTS[name].TYPE
    contract = raw(document["contracts"][typed["contract"]])
    domain = eip712.Domain(int(document["chainId"]), contract)
    for case in typed["cases"]:
        struct: Any = STRUCTS[name](*(value(text) for text in case["message"].values()))
        assert eip712.struct_hash(struct) == raw(case["structHash"])
        assert eip712.digest(domain, struct) == raw(case["digest"])


def test_reward_trees_have_the_roots_and_proofs_that_the_distributor_accepts():
    for vector in load("merkle.json")["rewards"]:
        entries = vector["entries"]
        job = raw(vector["jobId"])
        leaves = [reward_leaf(job, raw(entry["account"]), int(entry["cumulative"])) for entry in entries]
        tree = standard_tree(leaves)
        assert tree.root == raw(vector["root"])
        for index, entry in enumerate(entries):
            assert leaves[index] == raw(entry["leaf"])
            assert [f"0x{step.hex()}" for step in tree.proof(index)] == entry["proof"]
            assert verify_proof(tree.root, leaves[index], tree.proof(index))


def test_participation_trees_have_the_same_roots_and_proofs():
    for vector in load("merkle.json")["participation"]:
        entries = [
            (raw(entry["device"]), int(entry["weight"]), raw(entry["updateHash"])) for entry in vector["entries"]
        ]
        tree = participation_tree(entries)
        assert tree.root == raw(vector["root"])
        for index, entry in enumerate(vector["entries"]):
            assert participation_leaf(*entries[index]) == raw(entry["leaf"])
            assert [f"0x{step.hex()}" for step in tree.proof(index)] == entry["proof"]


@pytest.mark.parametrize("case", load("reward_split.json")["cases"], ids=lambda case: case["label"])
def test_the_reward_split_agrees_to_the_last_unit(case):
    accounts = [raw(account) for account in case["accounts"]]
    weights = dict(zip(accounts, map(int, case["weights"]), strict=True))
    shares = participation_v1(int(case["budget"]), weights)
    assert [shares[account] for account in accounts] == [int(share) for share in case["shares"]]
    assert sum(shares.values()) == int(case["budget"])
