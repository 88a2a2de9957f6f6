"""How long a rotated vector is and what range its coordinates have. No numpy: the daemon checks both."""

from math import sqrt
from typing import Final

MAX_BLOCK: Final = 4096
MIN_BLOCK: Final = 64
WORD_BYTES: Final = 2
SIGMAS: Final = 6


def padded_dim(dim: int) -> int:
    """Coordinates after rotation: `dim` rounded up to a multiple of 64."""
    return -(-dim // MIN_BLOCK) * MIN_BLOCK


def masked_bytes(dim: int) -> int:
    """Bytes of a masked vector of `dim` coordinates."""
    return WORD_BYTES * padded_dim(dim)


def coordinate_range_for(clip_norm: float, dim: int) -> float:
    """6 * clip_norm / sqrt(min(padded_dim(dim), 4096)): six standard deviations when a block holds the whole norm."""
    return SIGMAS * clip_norm / sqrt(min(padded_dim(dim), MAX_BLOCK))
