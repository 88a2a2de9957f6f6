"""Hand-encoded digests against eth-account's encoder."""

import dataclasses

import pytest
from eth_account._utils.encode_typed_data.encoding_and_hashing import hash_domain, hash_eip712_message
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol import eip712
from fedge_protocol.eip712 import Checkpoint, DeviceBinding, Domain, EncodingError, Genesis, Receipt, RewardRoot

STRATEGIES = {
    "bytes32": st.binary(min_size=32, max_size=32),
    "address": st.binary(min_size=20, max_size=20),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "uint128": st.integers(0, 2**128 - 1),
}
STRUCTS = [DeviceBinding, Receipt, Checkpoint, Genesis, RewardRoot]
DOMAINS = st.builds(Domain, st.integers(0, 2**256 - 1), STRATEGIES["address"])


def members(kind: type[eip712.TypedStruct]) -> tuple[str, list[tuple[str, ...]]]:
    name, _, fields = kind.TYPE.rstrip(")").partition("(")
    return name, [tuple(field.split(" ")) for field in fields.split(",")]


def domain_data(domain: Domain) -> dict[str, object]:
    return {
        "name": "Fedge",
        "version": "1",
        "chainId": domain.chain_id,
        "verifyingContract": "0x" + domain.verifying_contract.hex(),
    }


@pytest.mark.parametrize("kind", STRUCTS)
@given(data=st.data())
def test_hashes_and_digests_agree_with_eth_account(kind, data):
    name, fields = members(kind)
    values = [data.draw(STRATEGIES[solidity]) for solidity, _ in fields]
    domain = data.draw(DOMAINS)
    struct = kind(*values)
    types = {name: [{"name": field, "type": solidity} for solidity, field in fields]}
    message = {
        field: "0x" + value.hex() if isinstance(value, bytes) else value
        for (_, field), value in zip(fields, values, strict=True)
    }
    expected = hash_eip712_message(types, message)
    assert eip712.struct_hash(struct) == expected
    assert domain.separator() == hash_domain(domain_data(domain))
    assert eip712.digest(domain, struct) == keccak(b"\x19\x01" + domain.separator() + expected)


@pytest.mark.parametrize("kind", STRUCTS)
def test_every_field_changes_the_hash(kind):
    _, fields = members(kind)
    zero = {"bytes32": bytes(32), "address": bytes(20)}
    one = {"bytes32": bytes(31) + b"\1", "address": bytes(19) + b"\1"}
    base = kind(*(zero.get(solidity, 0) for solidity, _ in fields))
    hashes = {eip712.struct_hash(base)}
    for field, (solidity, _) in zip(dataclasses.fields(kind), fields, strict=True):
        hashes.add(eip712.struct_hash(dataclasses.replace(base, **{field.name: one.get(solidity, 1)})))
    assert len(hashes) == len(fields) + 1


@pytest.mark.parametrize("kind", STRUCTS)
def test_the_python_fields_stand_in_the_order_of_the_type_string(kind):
    _, fields = members(kind)
    camel = [
        head + "".join(part.title() for part in rest)
        for head, *rest in (field.name.split("_") for field in dataclasses.fields(kind))
    ]
    assert camel == [name for _, name in fields]


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"round": 2**64}, "round"), ({"attempt": -1}, "attempt"), ({"update_hash": b"\1" * 31}, "updateHash")],
)
def test_a_value_that_does_not_fit_is_refused_by_name(changes, named):
    receipt = dataclasses.replace(Receipt(bytes(32), 1, 1, bytes(32), bytes(32)), **changes)
    with pytest.raises(EncodingError, match=named):
        eip712.struct_hash(receipt)


def test_a_job_id_is_the_hash_of_fleet_slash_job():
    assert eip712.job_id("shop", "anomaly") == keccak(text="shop/anomaly")
