"""The compiled contracts in the wheel; `contracts/build.py --check` compares them with the sources."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedge_protocol.keccak import keccak256

ROOT = Path(__file__).resolve().parents[3]
ARTEFACTS = sorted((ROOT / "coordinator" / "fedge_coordinator" / "settlement" / "artefacts").glob("*.json"))
CODE_SIZE_LIMIT = 24_576


def signature(entry: dict[str, Any]) -> str:
    def kind(argument: dict[str, Any]) -> str:
        if argument["type"].startswith("tuple"):
            inner = ",".join(kind(part) for part in argument["components"])
            return f"({inner}){argument['type'].removeprefix('tuple')}"
        return str(argument["type"])

    return f"{entry['name']}({','.join(kind(argument) for argument in entry['inputs'])})"


def test_every_contract_that_is_deployed_is_shipped():
    assert [path.stem for path in ARTEFACTS] == [
        "AggregatorCommittee",
        "DeviceRegistry",
        "FedgeDemoToken",
        "FedgeTimelock",
        "ModelRegistry",
        "RewardDistributor",
    ]


@pytest.mark.parametrize("path", ARTEFACTS, ids=lambda path: path.stem)
def test_an_artefact_is_deployable_and_names_how_it_was_made(path):
    artefact = json.loads(path.read_text())
    assert artefact["name"] == path.stem
    assert artefact["solc"].startswith("0.8.37+commit.")
    assert artefact["settings"]["evmVersion"] == "cancun"
    assert artefact["settings"]["metadata"] == {"bytecodeHash": "none", "appendCBOR": False}
    assert len(bytes.fromhex(artefact["sourceHash"])) == 32
    runtime = bytes.fromhex(artefact["deployedBytecode"].removeprefix("0x"))
    assert 0 < len(runtime) <= CODE_SIZE_LIMIT
    assert len(bytes.fromhex(artefact["bytecode"].removeprefix("0x"))) > len(runtime)
    for start, length in artefact["immutables"]:
        assert runtime[start : start + length] == bytes(length)


@pytest.mark.parametrize("path", ARTEFACTS, ids=lambda path: path.stem)
def test_the_bytecode_contains_every_selector_of_the_abi(path):
    artefact = json.loads(path.read_text())
    runtime = bytes.fromhex(artefact["deployedBytecode"].removeprefix("0x"))
    functions = [signature(entry) for entry in artefact["abi"] if entry["type"] == "function"]
    assert functions
    # The optimiser drops leading zero bytes of a pushed selector.
    assert [name for name in functions if keccak256(name.encode())[:4].lstrip(b"\0") not in runtime] == []


def test_no_artefact_or_lock_file_names_a_registry_host():
    lock = json.loads((ROOT / "contracts" / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert all(package.get("integrity", "").startswith("sha512-") for name, package in lock["packages"].items() if name)
    assert all("http" not in path.read_text() for path in ARTEFACTS)
