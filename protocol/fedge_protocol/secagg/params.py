"""The numbers of one bucket: size, threshold, quantisation levels, keystream suite, ring."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from fedge_protocol.secagg.errors import BadParams

SECURE_FLOOR: Final = 16
"""Below this size a bucket works but hides too little; the device's owner decides whether it is accepted."""

BUCKET_TARGET: Final = 32
MIN_SIZE: Final = 2
MAX_SIZE: Final = 128
RING_BITS: Final = 16
RING_HALF: Final = 2 ** (RING_BITS - 1) - 1


class Suite(IntEnum):
    """The keystream of the masks; one for a whole bucket."""

    CHACHA20 = 1
    AES128_CTR = 2


def least_threshold(size: int) -> int:
    """floor(2 * size / 3) + 1: the least threshold a device accepts for a bucket of this size."""
    return 2 * size // 3 + 1


@dataclass(frozen=True)
class BucketParams:
    """Parameters of one bucket, checked when made.

    Args:
        size: number of members, 2 to 128.
        threshold: shares that it takes to unmask, floor(2 * size / 3) + 1 to size, so that 2 * threshold > size.
        levels: a quantised coordinate is within -levels..levels; size * levels <= 32767, so that no sum wraps.
        suite: the keystream of the masks.
        ring_bits: always 16 in FSA/1.

    Raises:
        BadParams: any of these does not hold.
    """

    size: int
    threshold: int
    levels: int
    suite: Suite
    ring_bits: int = RING_BITS

    def __post_init__(self) -> None:
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise BadParams(f"size {self.size} is not within {MIN_SIZE}..{MAX_SIZE}")
        if self.ring_bits != RING_BITS:
            raise BadParams(f"ring_bits {self.ring_bits}: FSA/1 has only the ring of {RING_BITS} bits")
        if self.suite not in Suite.__members__.values():
            raise BadParams(f"suite {self.suite} is not one of {', '.join(str(int(s)) for s in Suite)}")
        least = least_threshold(self.size)
        if not least <= self.threshold <= self.size or 2 * self.threshold <= self.size:
            raise BadParams(f"threshold {self.threshold} is not within {least}..{self.size} for size {self.size}")
        most = RING_HALF // self.size
        if not 1 <= self.levels <= most:
            raise BadParams(f"levels {self.levels} is not within 1..{most}: a sum of {self.size} could wrap")

    @classmethod
    def for_size(cls, size: int, suite: Suite = Suite.CHACHA20) -> Self:
        """The default parameters of a bucket of `size`: least threshold, most levels."""
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise BadParams(f"size {size} is not within {MIN_SIZE}..{MAX_SIZE}")
        return cls(size=size, threshold=least_threshold(size), levels=RING_HALF // size, suite=suite)

    @property
    def tolerated_drops(self) -> int:
        """How many members may drop out after sharing."""
        return self.size - self.threshold

    @property
    def tolerated_colluders(self) -> int:
        """Most members that may collude with the server (also one that equivocates): 2 * threshold - size - 1."""
        return 2 * self.threshold - self.size - 1
