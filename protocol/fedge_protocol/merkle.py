"""Merkle trees that OpenZeppelin's `MerkleProof` and `StandardMerkleTree` verify.

Leaves are hashed twice (so that no inner node passes for a leaf) and pairs are hashed in ascending order (so that a
proof needs no left/right flags). The layout is the one of `@openzeppelin/merkle-tree`: a flat complete binary tree with
the leaves at its end in reverse order. `StandardMerkleTree` sorts leaves by their hash; the participation tree keeps
them in ascending order of the device's address instead, which makes absence provable by two neighbours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedge_protocol.eip712 import address_word, bytes32_word, uint_word
from fedge_protocol.keccak import keccak256

EMPTY_ROOT = bytes(32)
MAX_PROOF_LENGTH = 64


class MerkleError(ValueError):
    """A tree cannot be built from these leaves; the message names the leaf at fault."""


def reward_leaf(job_id: bytes, account: bytes, cumulative: int) -> bytes:
    """Return the leaf that entitles `account` to `cumulative` token units of a job since its start.

    Raises:
        EncodingError: when a field does not fit its Solidity type.
    """
    encoded = (
        bytes32_word(job_id, "jobId") + address_word(account, "account") + uint_word(cumulative, 256, "cumulative")
    )
    return keccak256(keccak256(encoded))


def participation_leaf(device: bytes, weight: int, update_hash: bytes) -> bytes:
    """Return the leaf that states one device's accepted update and its weight in a round.

    Raises:
        EncodingError: when a field does not fit its Solidity type.
    """
    encoded = address_word(device, "device") + uint_word(weight, 64, "weight") + bytes32_word(update_hash, "updateHash")
    return keccak256(keccak256(encoded))


def cohort_leaf(device: bytes) -> bytes:
    """Return the leaf that states that a device was asked to take part in a round.

    Raises:
        EncodingError: when the address does not have 20 bytes.
    """
    return keccak256(keccak256(address_word(device, "device")))


def pair_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes; the order of the arguments does not matter."""
    return keccak256(left + right if left < right else right + left)


@dataclass(frozen=True, slots=True)
class MerkleTree:
    """A complete binary tree in one flat tuple: the root first, the leaves last and reversed.

    `positions[i]` is the place of the caller's leaf `i` in `nodes`.
    """

    nodes: tuple[bytes, ...]
    positions: tuple[int, ...]

    @property
    def root(self) -> bytes:
        """The 32-byte root; all zero for a tree without leaves."""
        return self.nodes[0] if self.nodes else EMPTY_ROOT

    def proof(self, leaf_index: int) -> tuple[bytes, ...]:
        """Return the siblings from the caller's leaf `leaf_index` up to the root.

        Raises:
            IndexError: when there is no such leaf.
        """
        if not 0 <= leaf_index < len(self.positions):
            raise IndexError(f"leaf {leaf_index} of a tree with {len(self.positions)} leaves")
        node = self.positions[leaf_index]
        siblings = []
        while node > 0:
            siblings.append(self.nodes[node + 1 if node % 2 else node - 1])
            node = (node - 1) // 2
        return tuple(siblings)


def positional_tree(leaves: Sequence[bytes]) -> MerkleTree:
    """Build a tree that keeps the leaves in the order given (`SimpleMerkleTree` with `sortLeaves: false`)."""
    count = len(leaves)
    if not count:
        return MerkleTree((), ())
    nodes = [b""] * (count - 1) + [bytes32_word(leaf, "leaf") for leaf in reversed(leaves)]
    for index in range(count - 2, -1, -1):
        nodes[index] = pair_hash(nodes[2 * index + 1], nodes[2 * index + 2])
    return MerkleTree(tuple(nodes), tuple(2 * count - 2 - index for index in range(count)))


def standard_tree(leaves: Sequence[bytes]) -> MerkleTree:
    """Build a tree over the leaves sorted by their hash, as `StandardMerkleTree.of` does."""
    order = sorted(range(len(leaves)), key=leaves.__getitem__)
    tree = positional_tree([leaves[index] for index in order])
    positions = [0] * len(leaves)
    for place, index in enumerate(order):
        positions[index] = tree.positions[place]
    return MerkleTree(tree.nodes, tuple(positions))


def participation_tree(entries: Iterable[tuple[bytes, int, bytes]]) -> MerkleTree:
    """Build a round's tree from (device address, weight, update hash), leaf order = ascending device address.

    Raises:
        MerkleError: when two entries name the same device, or the entries are not in ascending order.
        EncodingError: when a field does not fit its Solidity type.
    """
    listed = list(entries)
    _check_ascending([device for device, _, _ in listed])
    return positional_tree([participation_leaf(*entry) for entry in listed])


def cohort_tree(devices: Sequence[bytes]) -> MerkleTree:
    """Build the tree of the devices that were asked, leaf order = ascending device address.

    Raises:
        MerkleError: when a device is named twice, or the devices are not in ascending order.
        EncodingError: when an address does not have 20 bytes.
    """
    _check_ascending(devices)
    return positional_tree([cohort_leaf(device) for device in devices])


def _check_ascending(devices: Sequence[bytes]) -> None:
    for before, after in pairwise(devices):
        if before >= after:
            raise MerkleError(f"devices must ascend strictly by address, 0x{after.hex()} follows 0x{before.hex()}")


def verify_proof(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether `proof` leads from `leaf` to `root`; a proof of more than 64 steps is refused."""
    if len(proof) > MAX_PROOF_LENGTH or any(len(sibling) != len(EMPTY_ROOT) for sibling in proof):
        return False
    node = leaf
    for sibling in proof:
        node = pair_hash(node, sibling)
    return node == root
