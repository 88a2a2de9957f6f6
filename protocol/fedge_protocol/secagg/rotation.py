"""Random rotation known to all: permutation, signs, Walsh-Hadamard transform (numpy).

It spreads every update evenly over the coordinates, so that one clipping range fits all of them and a heavy tail costs
no accuracy (Suresh et al. 2017, section 3). Only additions, subtractions and one multiplication a coordinate in a fixed
order: the result is the same on every IEEE 754 machine, bit for bit.

The padded vector is cut into blocks: as many of 4096 as fit, then at most one of each smaller power of two down to 64.
The blocks of 4096 are interleaved: coordinate i of block j is at i * blocks + j, so that every butterfly is contiguous.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import derive
from fedge_protocol.secagg.labels import ROTATION
from fedge_protocol.secagg.padding import MAX_BLOCK, MIN_BLOCK, padded_dim
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.prg import Keystream

Floats = TypeVar("Floats", np.float32, np.float64)


def blocks(padded: int) -> list[tuple[int, int]]:
    """(size, count) of the blocks of a padded vector, in order."""
    layout = [(MAX_BLOCK, padded // MAX_BLOCK)] if padded >= MAX_BLOCK else []
    rest = padded % MAX_BLOCK
    size = MAX_BLOCK // 2
    while size >= MIN_BLOCK:
        if rest & size:
            layout.append((size, 1))
        size //= 2
    return layout


@lru_cache(maxsize=1)
def _shuffle(seed: bytes, padded: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Permutation (padded,) and signs (padded,) of a seed.

    The permutation is the stable order of the keystream's first `padded` 16-bit words; sign i is bit i (least
    significant first) of what follows, 1 for minus.
    """
    stream = Keystream(Suite.CHACHA20, derive(seed, ROTATION, padded.to_bytes(4, "little")))
    words = np.frombuffer(stream.read(2 * padded), dtype="<u2")
    bits = np.unpackbits(np.frombuffer(stream.read(padded // 8), dtype=np.uint8), bitorder="little")
    order = np.argsort(words, kind="stable")
    signs = np.float32(1) - np.float32(2) * bits.astype(np.float32)
    return order, signs


def _transform(vector: npt.NDArray[Floats]) -> None:
    """The orthonormal Walsh-Hadamard transform of every block, in place. It is its own inverse."""
    start = 0
    scratch = np.empty(len(vector) // 2, dtype=vector.dtype)
    for size, count in blocks(len(vector)):
        block = vector[start : start + size * count]
        half = scratch[: len(block) // 2]
        stride = 1
        while stride < size:
            pairs = block.reshape(size // (2 * stride), 2, stride * count)
            difference = half.reshape(size // (2 * stride), stride * count)
            np.subtract(pairs[:, 0], pairs[:, 1], out=difference)
            pairs[:, 0] += pairs[:, 1]
            pairs[:, 1] = difference
            stride *= 2
        block *= vector.dtype.type(size**-0.5)
        start += size * count


def rotate(vector: npt.NDArray[np.float32], seed: bytes) -> npt.NDArray[np.float32]:
    """Rotate (dim,) float32 into (padded_dim(dim),) float32 of the same Euclidean norm.

    Args:
        vector: any finite values.
        seed: 1 to 64 bytes, public, the same for all whose vectors are to be added.

    Raises:
        BadInput: not one-dimensional, or empty.
    """
    if vector.ndim != 1 or not len(vector):
        raise BadInput(f"a vector of shape {vector.shape} cannot be rotated; it takes (dim,)")
    padded = padded_dim(len(vector))
    order, signs = _shuffle(seed, padded)
    extended = np.zeros(padded, dtype=np.float32)
    extended[: len(vector)] = vector
    rotated = extended.take(order)
    rotated *= signs
    _transform(rotated)
    return rotated


def unrotate(vector: npt.NDArray[Floats], dim: int, seed: bytes) -> npt.NDArray[Floats]:
    """The inverse of `rotate`: (padded_dim(dim),) float32 or float64 back to (dim,) of the same type.

    Raises:
        BadInput: the vector's length is not padded_dim(dim).
    """
    if dim < 1 or vector.shape != (padded_dim(dim),):
        raise BadInput(f"a vector of shape {vector.shape} is not a rotated one of {dim} coordinates")
    order, signs = _shuffle(seed, len(vector))
    turned = vector.copy()
    _transform(turned)
    turned *= signs.astype(vector.dtype, copy=False)
    restored = np.empty_like(turned)
    restored[order] = turned
    return restored[:dim]
