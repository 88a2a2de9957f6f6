"""Masks: adding and removing keystreams in the ring of 16-bit words (numpy)."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.prg import CHUNK_BYTES, Keystream

Ring = npt.NDArray[np.uint16]

WORD_BYTES: Final = 2
_CHUNK_WORDS: Final = CHUNK_BYTES // WORD_BYTES


def expand(seed: bytes, dim: int, suite: Suite) -> Ring:
    """The mask of one seed: (dim,) uint16, the keystream read as little-endian words."""
    mask = np.zeros(dim, dtype="<u2")
    accumulate(mask, [(1, seed)], suite)
    return mask


def accumulate(total: Ring, signed_seeds: Iterable[tuple[int, bytes]], suite: Suite) -> None:
    """Add (+1) or subtract (-1) the masks of many seeds to `total`, (dim,) uint16, in place, modulo 2^16.

    Goes through the vector in chunks that stay in the cache, all seeds for each chunk, with one buffer for all.

    Raises:
        BadInput: a sign other than +1 and -1, or a seed that has not 32 bytes.
    """
    streams = []
    for sign, seed in signed_seeds:
        if sign not in {1, -1}:
            raise BadInput(f"the sign of a mask is {sign} instead of +1 or -1")
        streams.append((np.add if sign == 1 else np.subtract, Keystream(suite, seed)))
    buffer = bytearray(min(CHUNK_BYTES, WORD_BYTES * len(total)))
    words = np.frombuffer(buffer, dtype="<u2")
    for start in range(0, len(total), _CHUNK_WORDS):
        part = total[start : start + _CHUNK_WORDS]
        view, mask = memoryview(buffer)[: WORD_BYTES * len(part)], words[: len(part)]
        for apply, stream in streams:
            stream.fill(view)
            apply(part, mask, out=part)


def mask(quantised: Ring, *, self_seed: bytes, pairs: Iterable[tuple[int, bytes]], suite: Suite) -> Ring:
    """Mask a coded update: y = x + PRG(b) + sum of the signed pairwise masks, modulo 2^16.

    Args:
        quantised: (dim,) uint16, left as it is.
        self_seed: `MaskSeeds.self_seed`.
        pairs: `MaskSeeds.pairs`.
        suite: of the bucket.

    Returns:
        (dim,) uint16; its little-endian bytes are what is uploaded.
    """
    masked = quantised.astype("<u2")
    accumulate(masked, [(1, self_seed), *pairs], suite)
    return masked
