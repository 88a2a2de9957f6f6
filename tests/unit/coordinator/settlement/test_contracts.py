"""Calls, events and errors through the shipped artefacts, against eth-abi used directly."""

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedge_coordinator.settlement.contracts import COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN, decode_revert, load
from fedge_coordinator.settlement.errors import SettlementError

WORD = b"\x05" * 32
ACCOUNT = b"\x06" * 20
CHECKPOINT = "(bytes32,uint64,bytes32,bytes32,bytes32,bytes32,bytes32,bytes32,uint64,uint64)"


def test_calls_with_structs_and_lists_are_encoded_as_solidity_does():
    fields = (WORD, 1, WORD, WORD, WORD, WORD, WORD, WORD, 2, 3)
    calldata = load(MODELS).encode_call("publish", fields, [b"\x01", b"\x02\x03"])
    signature = f"publish({CHECKPOINT},bytes[])"
    assert calldata == keccak(text=signature)[:4] + encode([CHECKPOINT, "bytes[]"], [fields, [b"\x01", b"\x02\x03"]])
    assert load(MODELS).decode_call("publish", calldata) == (fields, (b"\x01", b"\x02\x03"))


def test_addresses_come_back_as_bytes_at_any_depth():
    claims = [(WORD, ACCOUNT, 7, [WORD])]
    calldata = load(REWARDS).encode_call("claimMany", claims)
    assert load(REWARDS).decode_call("claimMany", calldata) == (((WORD, ACCOUNT, 7, (WORD,)),),)
    members = encode(["address[]"], [[ACCOUNT, b"\x07" * 20]])
    assert load(COMMITTEE).decode_result("members", members) == ((ACCOUNT, b"\x07" * 20),)


def test_an_answer_of_another_type_is_refused():
    with pytest.raises(SettlementError, match=r"ModelRegistry\.jobs answered 0 bytes"):
        load(MODELS).decode_result("jobs", b"")


def test_events_are_decoded_with_their_indexed_arguments():
    contract = load(REWARDS)
    topics = [contract.topic("Claimed"), WORD, bytes(12) + ACCOUNT, bytes(12) + b"\x07" * 20]
    event = contract.decode_log(topics, encode(["uint256", "uint256"], [5, 9]), 3, WORD)
    assert event is not None
    assert event.arguments == {
        "jobId": WORD,
        "account": ACCOUNT,
        "recipient": b"\x07" * 20,
        "amount": 5,
        "cumulative": 9,
    }
    assert contract.decode_log([b"\x09" * 32], b"", 3, WORD) is None
    with pytest.raises(SettlementError, match="not of its type"):
        contract.decode_log(topics[:2], b"", 3, WORD)
    with pytest.raises(SettlementError, match="not of its type"):
        contract.decode_log(topics, b"\x01", 3, WORD)


@pytest.mark.parametrize(
    ("types", "name", "values", "text"),
    [
        (["bytes32", "uint64", "uint64"], "EpochOutOfOrder", [WORD, 2, 5], f"EpochOutOfOrder(0x{WORD.hex()}, 2, 5)"),
        (["uint256", "uint256"], "NotEnoughSignatures", [1, 2], "NotEnoughSignatures(1, 2)"),
        (["address"], "NotMember", [ACCOUNT], f"NotMember(0x{ACCOUNT.hex()})"),
        (["bytes32", "address"], "DeviceIdBound", [WORD, ACCOUNT], f"DeviceIdBound(0x{WORD.hex()}, 0x{ACCOUNT.hex()})"),
        (["string"], "Error", ["no"], "Error(no)"),
        (["uint256"], "Panic", [0x11], "Panic(17)"),
    ],
)
def test_errors_of_every_contract_are_told_by_name(types, name, values, text):
    data = keccak(text=f"{name}({','.join(types)})")[:4] + encode(types, values)
    assert str(decode_revert(data)) == text


@given(st.binary(max_size=200))
def test_arbitrary_revert_data_never_breaks_the_decoder(data: bytes):
    assert len(str(decode_revert(data))) < 400


@pytest.mark.parametrize("name", [COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN])
def test_every_contract_is_shipped_with_its_code(name: str):
    assert len(load(name).bytecode) > 1000
    assert not load(name).is_deployed_as(b"")


def test_a_contract_that_is_not_shipped_is_told_with_the_cure():
    with pytest.raises(SettlementError, match=r"no artefact Nothing\.json; build the contracts"):
        load("Nothing")
