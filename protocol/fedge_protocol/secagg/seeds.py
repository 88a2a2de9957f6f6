"""How the seeds of the masks follow from the secrets of a round: used by the device, the server and the auditor."""

from fedge_protocol.secagg.kdf import derive
from fedge_protocol.secagg.labels import PAIR, SELF_COMMITMENT, SELF_MASK


def index_bytes(index: int) -> bytes:
    """A member's index as it goes into KDFs and AADs: 16 bit, little endian."""
    return index.to_bytes(2, "little")


def self_seed(b: bytes, binding: bytes, own: int) -> bytes:
    """Seed (32 bytes) of the self mask of member `own`, whose secret is b (16 bytes)."""
    return derive(b, SELF_MASK, binding, index_bytes(own))


def self_commitment(b: bytes, binding: bytes, own: int) -> bytes:
    """What member `own` publishes in E1 (32 bytes): hides b, because b has 128 bits of entropy, and binds to it."""
    return derive(b, SELF_COMMITMENT, binding, index_bytes(own))


def pair_seed(secret: bytes, binding: bytes, one: int, other: int) -> bytes:
    """Seed (32 bytes) of the mask that two members have in common; `secret` is X25519 of their mask keys."""
    return derive(secret, PAIR, binding, index_bytes(min(one, other)), index_bytes(max(one, other)))


def pair_sign(own: int, peer: int) -> int:
    """+1: `own` adds the mask it has in common with `peer`; -1: it subtracts it. Opposite for the two."""
    return 1 if peer < own else -1
