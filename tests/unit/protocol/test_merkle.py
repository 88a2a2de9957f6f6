"""Trees against OpenZeppelin's published example and against a plain recursive reading of the proof rule."""

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.eip712 import EncodingError
from fedge_protocol.keccak import keccak256
from fedge_protocol.merkle import (
    EMPTY_ROOT,
    MerkleError,
    cohort_tree,
    participation_leaf,
    participation_tree,
    positional_tree,
    reward_leaf,
    standard_tree,
    verify_proof,
)

ADDRESSES = st.binary(min_size=20, max_size=20)
WORDS = st.binary(min_size=32, max_size=32)
LEAVES = st.lists(WORDS, min_size=1, max_size=40, unique=True)


def test_the_readme_example_of_openzeppelins_merkle_tree_has_its_published_root():
    values = [("0x" + "11" * 20, 5 * 10**18), ("0x" + "22" * 20, 25 * 10**17)]
    leaves = [keccak(keccak(encode(["address", "uint256"], value))) for value in values]
    assert standard_tree(leaves).root.hex() == "d4dee0beab2d53f2cc83e567171bd2820e49898130a22622b10ead383e90bd77"


def test_keccak_is_ethereums_and_not_sha3():
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@given(WORDS, ADDRESSES, st.integers(0, 2**256 - 1))
def test_a_reward_leaf_is_the_double_hash_of_its_abi_encoding(job_id, account, cumulative):
    encoded = encode(["bytes32", "address", "uint256"], [job_id, account, cumulative])
    assert reward_leaf(job_id, account, cumulative) == keccak(keccak(encoded))


@given(ADDRESSES, st.integers(0, 2**64 - 1), WORDS)
def test_a_participation_leaf_is_the_double_hash_of_its_abi_encoding(device, weight, update_hash):
    encoded = encode(["address", "uint64", "bytes32"], [device, weight, update_hash])
    assert participation_leaf(device, weight, update_hash) == keccak(keccak(encoded))


@given(LEAVES, st.data())
def test_every_leaf_has_a_proof_in_either_kind_of_tree(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    for tree in (positional_tree(leaves), standard_tree(leaves)):
        assert verify_proof(tree.root, leaves[index], tree.proof(index))
        assert tree.nodes[tree.positions[index]] == leaves[index]


@given(LEAVES, st.data())
def test_a_changed_bit_in_a_leaf_or_proof_is_refused(leaves, data):
    tree = standard_tree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = list(tree.proof(index))
    parts = [leaves[index], *proof]
    part, byte, bit = (data.draw(st.integers(0, top)) for top in (len(parts) - 1, 31, 7))
    changed = bytearray(parts[part])
    changed[byte] ^= 1 << bit
    parts[part] = bytes(changed)
    assert not verify_proof(tree.root, parts[0], parts[1:])


@given(LEAVES, st.randoms())
def test_a_standard_tree_does_not_depend_on_the_order_of_its_leaves(leaves, random):
    shuffled = list(leaves)
    random.shuffle(shuffled)
    assert standard_tree(leaves).root == standard_tree(shuffled).root


def test_one_leaf_is_its_own_root_and_no_leaf_is_zero():
    assert positional_tree([b"\1" * 32]).root == b"\1" * 32
    assert positional_tree([b"\1" * 32]).proof(0) == ()
    assert standard_tree([]).root == EMPTY_ROOT


def test_a_proof_of_unbounded_length_or_odd_sibling_is_refused():
    leaf = b"\1" * 32
    assert not verify_proof(leaf, leaf, [b"\2" * 32] * 65)
    assert not verify_proof(leaf, leaf, [b"\2" * 31])


def test_a_proof_for_a_leaf_that_is_not_there_is_refused():
    with pytest.raises(IndexError, match="leaf 1 of a tree with 1 leaves"):
        positional_tree([b"\1" * 32]).proof(1)
    with pytest.raises(IndexError):
        positional_tree([b"\1" * 32]).proof(-1)


@pytest.mark.parametrize("second", [b"\1" * 20, b"\0" * 20])
def test_participants_out_of_order_or_twice_are_refused(second):
    entry = (b"\1" * 20, 1, b"\2" * 32)
    with pytest.raises(MerkleError, match="ascend strictly"):
        participation_tree([entry, (second, 1, b"\2" * 32)])
    with pytest.raises(MerkleError, match="ascend strictly"):
        cohort_tree([entry[0], second])


@given(st.lists(ADDRESSES, min_size=1, max_size=20, unique=True).map(sorted))
def test_every_device_that_was_asked_can_prove_it(devices):
    tree = cohort_tree(devices)
    for index, device in enumerate(devices):
        assert verify_proof(tree.root, keccak(keccak(encode(["address"], [device]))), tree.proof(index))


@pytest.mark.parametrize(
    ("device", "weight", "update_hash"),
    [(b"\1" * 19, 1, b"\2" * 32), (b"\1" * 20, 2**64, b"\2" * 32), (b"\1" * 20, -1, b"\2" * 32), (b"\1" * 20, 1, b"")],
)
def test_a_value_that_does_not_fit_its_solidity_type_is_refused(device, weight, update_hash):
    with pytest.raises(EncodingError):
        participation_leaf(device, weight, update_hash)
