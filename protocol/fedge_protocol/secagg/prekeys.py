"""One-time keys of a device: made ahead, published signed, used for one round at most, deleted whatever came of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import derive
from fedge_protocol.secagg.labels import MASK_KEY
from fedge_protocol.secagg.x25519 import KEY_BYTES, public_of

MASK_SEED_BYTES: Final = 16


def mask_private(mask_seed: bytes) -> bytes:
    """KDF(seed, "mask-sk"): the X25519 private key (32 bytes) of a mask seed (16 bytes)."""
    return derive(mask_seed, MASK_KEY)


@dataclass(frozen=True)
class Prekey:
    """The secrets of one round that has not begun yet. `repr` shows none of them.

    Args:
        prekey_id: never given twice by one device.
        mask_seed: 16 bytes, `s`: what peers can reconstruct if the device drops out.
        channel_private: 32 bytes, X25519: opens what peers seal for this device; never shared.

    Raises:
        BadInput: a field of the wrong size.
    """

    prekey_id: int
    mask_seed: bytes = field(repr=False)
    channel_private: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.prekey_id < 0 or len(self.mask_seed) != MASK_SEED_BYTES or len(self.channel_private) != KEY_BYTES:
            raise BadInput(
                f"prekey {self.prekey_id} has {len(self.mask_seed)} and {len(self.channel_private)} bytes of secrets "
                f"instead of {MASK_SEED_BYTES} and {KEY_BYTES}, or a negative id"
            )

    @cached_property
    def mask_public(self) -> bytes:
        """Public key of the pairwise masks, 32 bytes."""
        return public_of(mask_private(self.mask_seed))

    @cached_property
    def channel_public(self) -> bytes:
        """Public key of the channels to the peers, 32 bytes."""
        return public_of(self.channel_private)


def generate(first_id: int, count: int, random: Callable[[int], bytes] = os.urandom) -> tuple[Prekey, ...]:
    """`count` fresh prekeys with consecutive ids from `first_id`."""
    return tuple(Prekey(first_id + i, random(MASK_SEED_BYTES), random(KEY_BYTES)) for i in range(count))
