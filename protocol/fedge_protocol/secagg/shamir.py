"""Shamir's secret sharing of 16-byte secrets over GF(2^31 - 1). Pure Python: the daemon shares without numpy.

A secret is five limbs of 27 bits (little endian; the last has 20), each shared by its own random polynomial of degree
threshold - 1. A share is the five values at x, each as a little-endian 32-bit word: 20 bytes. Holder h (from 0) has
x = h + 1. The five limbs are computed at once in the slots of one big integer: a slot of 72 bits holds a sum of 128
products of two 31-bit numbers without a carry into the next one.
"""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import mul
from typing import Final

from fedge_protocol.secagg.errors import BadInput, TooFewSurvivors
from fedge_protocol.secagg.params import MAX_SIZE

PRIME: Final = 2**31 - 1
SECRET_BYTES: Final = 16
LIMBS: Final = 5
LIMB_BITS: Final = 27
SHARE_BYTES: Final = 4 * LIMBS
_LIMB_MASK: Final = 2**LIMB_BITS - 1
_SLOT_BITS: Final = 72
_SLOT_MASK: Final = 2**_SLOT_BITS - 1
_SHIFTS: Final = tuple(_SLOT_BITS * limb for limb in range(LIMBS))
_WORDS: Final = struct.Struct(f"<{LIMBS}I")


@lru_cache(maxsize=4)
def _powers(threshold: int, holders: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(pow(x, k, PRIME) for k in range(threshold)) for x in range(1, holders + 1))


def _pack(values: tuple[int, ...]) -> int:
    return sum(value << shift for value, shift in zip(values, _SHIFTS, strict=True))


def _unpack(packed: int) -> tuple[int, ...]:
    return tuple((packed >> shift & _SLOT_MASK) % PRIME for shift in _SHIFTS)


def _field_elements(count: int, random: Callable[[int], bytes]) -> list[int]:
    elements: list[int] = []
    while len(elements) < count:
        missing = count - len(elements)
        words = struct.unpack(f"<{missing}I", random(4 * missing))
        elements += [word & PRIME for word in words if word & PRIME != PRIME]
    return elements


def split(secret: bytes, *, threshold: int, holders: int, random: Callable[[int], bytes]) -> list[bytes]:
    """One share (20 bytes) for each holder; any `threshold` of them give the secret, fewer say nothing about it.

    Coefficients are uniform in the field: 31 random bits each, drawn again when they equal the prime.

    Raises:
        BadInput: the secret has not 16 bytes, or not 1 <= threshold <= holders <= 128.
    """
    if len(secret) != SECRET_BYTES:
        raise BadInput(f"a shared secret has {len(secret)} bytes instead of {SECRET_BYTES}")
    if not 1 <= threshold <= holders <= MAX_SIZE:
        raise BadInput(f"threshold {threshold} and holders {holders} are not in order within 1..{MAX_SIZE}")
    number = int.from_bytes(secret, "little")
    limbs = tuple(number >> LIMB_BITS * limb & _LIMB_MASK for limb in range(LIMBS))
    elements = _field_elements(LIMBS * (threshold - 1), random)
    rows = zip(*[iter(elements)] * LIMBS, strict=True)
    polynomial = [_pack(limbs), *(_pack(row) for row in rows)]
    return [_WORDS.pack(*_unpack(sum(map(mul, polynomial, powers)))) for powers in _powers(threshold, holders)]


@lru_cache(maxsize=64)
def lagrange(xs: tuple[int, ...], at: int = 0) -> tuple[int, ...]:
    """Coefficients (mod 2^31 - 1) that give a polynomial's value at `at` from those at the distinct points `xs`."""
    coefficients = []
    for x in xs:
        above = below = 1
        for other in xs:
            if other != x:
                above = above * (at - other) % PRIME
                below = below * (x - other) % PRIME
        coefficients.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(coefficients)


def parse_share(share: bytes) -> tuple[int, ...]:
    """The five field elements of a share.

    Raises:
        BadInput: not 20 bytes, or a word that is no field element.
    """
    if len(share) != SHARE_BYTES:
        raise BadInput(f"a share has {len(share)} bytes instead of {SHARE_BYTES}")
    words: tuple[int, ...] = _WORDS.unpack(share)
    if max(words) >= PRIME:
        raise BadInput(f"a share holds the word {max(words)}, which is no element of GF(2^31 - 1)")
    return words


def secret_of_limbs(limbs: tuple[int, ...]) -> bytes:
    """The 16 bytes of five limbs.

    Raises:
        BadInput: a limb is too large: the shares it came from do not belong together.
    """
    number = sum(limb << LIMB_BITS * place for place, limb in enumerate(limbs))
    if max(limbs) > _LIMB_MASK or number >> 8 * SECRET_BYTES:
        raise BadInput("the shares do not belong together: they give no 16-byte secret")
    return number.to_bytes(SECRET_BYTES, "little")


def interpolate(shares_by_x: Mapping[int, bytes], at: int) -> bytes:
    """The share that the polynomials through all the given shares have at x = `at`.

    Raises:
        BadInput: a malformed share.
    """
    xs = tuple(shares_by_x)
    packed = (_pack(parse_share(share)) for share in shares_by_x.values())
    return _WORDS.pack(*_unpack(sum(map(mul, packed, lagrange(xs, at)))))


def combine(shares_by_x: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from the `threshold` shares with the least x.

    Raises:
        TooFewSurvivors: fewer shares than the threshold.
        BadInput: an x outside 1..128, a malformed share, or shares that give no 16-byte secret. Wrong shares may also
            give a wrong secret: compare it with what its owner committed to.
    """
    if threshold < 1 or len(shares_by_x) < threshold:
        raise TooFewSurvivors("shares of one secret", len(shares_by_x), threshold)
    xs = sorted(shares_by_x)[:threshold]
    if xs[0] < 1 or xs[-1] > MAX_SIZE:
        raise BadInput(f"a share's x is not within 1..{MAX_SIZE}")
    return secret_of_limbs(parse_share(interpolate({x: shares_by_x[x] for x in xs}, 0)))
