"""Fixed-point coding of rotated updates: clip, scale, round stochastically, two's complement in 16 bits (numpy).

In units of 2^-16 of a level: t = rint(value * weight / weight_max * levels / coordinate_range * 2^16), clipped to
+-levels * 2^16; coded = (t + u) >> 16, u uniform in 0..65535. So the expectation is exactly t / 2^16, no coded value
leaves -levels..levels, and nothing depends on how a machine rounds its additions.
"""

import os
from collections.abc import Callable
from math import isfinite
from typing import Final

import numpy as np
import numpy.typing as npt

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import derive
from fedge_protocol.secagg.labels import ROUNDING
from fedge_protocol.secagg.params import RING_HALF, Suite
from fedge_protocol.secagg.prg import Keystream

FRACTION_BITS: Final = 16


def _check(*, coordinate_range: float, levels: int, weight: int, weight_max: int) -> None:
    if not (isfinite(coordinate_range) and coordinate_range > 0):
        raise BadInput(f"coordinate_range {coordinate_range} is not a positive number")
    if not 1 <= levels <= RING_HALF:
        raise BadInput(f"levels {levels} is not within 1..{RING_HALF}")
    if weight < 1 or weight_max < 1:
        raise BadInput(f"weights are at least 1, not {weight} and {weight_max}")


def quantise(
    vector: npt.NDArray[np.float32],
    *,
    coordinate_range: float,
    levels: int,
    weight: int,
    weight_max: int,
    random: Callable[[int], bytes] | None = None,
) -> npt.NDArray[np.uint16]:
    """Code a rotated update.

    Args:
        vector: (padded,) float32.
        coordinate_range: the absolute value that `levels` stands for; larger ones are clipped.
        levels: of the bucket.
        weight: of this device, 1 to weight_max; its values are scaled by weight / weight_max before clipping.
        weight_max: the same for all.
        random: a CSPRNG that is asked for 32 bytes; None is os.urandom.

    Returns:
        (padded,) uint16: two's complement, within -levels..levels.

    Raises:
        BadInput: a parameter out of its bounds, or a value that is not finite.
    """
    _check(coordinate_range=coordinate_range, levels=levels, weight=weight, weight_max=weight_max)
    if weight > weight_max:
        raise BadInput(f"weight {weight} is above weight_max {weight_max}")
    limit = np.float32(levels << FRACTION_BITS)
    scale = (levels << FRACTION_BITS) * weight / (weight_max * coordinate_range)
    if scale > np.finfo(np.float32).max:
        raise BadInput(f"coordinate_range {coordinate_range} is too small for float32")
    if not np.isfinite(vector).all():
        raise BadInput("the update holds values that are not finite")
    with np.errstate(over="ignore"):  # what overflows is clipped
        scaled = vector * np.float32(scale)
    np.clip(scaled, -limit, limit, out=scaled)
    fixed = np.rint(scaled, out=scaled).astype(np.int32)
    stream = Keystream(Suite.CHACHA20, derive((random or os.urandom)(32), ROUNDING))
    fixed += np.frombuffer(stream.read(2 * len(vector)), dtype="<u2")
    fixed >>= FRACTION_BITS
    coded: npt.NDArray[np.uint16] = fixed.astype(np.int16).view(np.uint16)
    return coded


def dequantise_sum(
    total: npt.NDArray[np.uint16], *, coordinate_range: float, levels: int, weight_sum: int, weight_max: int
) -> npt.NDArray[np.float64]:
    """The weighted mean, sum of weight * value over weight_sum, still rotated, from the sum of coded updates.

    Args:
        total: (padded,) uint16, the sum modulo 2^16 of at most 32767 / levels coded updates.
        coordinate_range: as for `quantise`.
        levels: as for `quantise`.
        weight_sum: of the members that are in the sum.
        weight_max: as for `quantise`.

    Returns:
        (padded,) float64.

    Raises:
        BadInput: a parameter out of its bounds.
    """
    _check(coordinate_range=coordinate_range, levels=levels, weight=weight_sum, weight_max=weight_max)
    step = coordinate_range * weight_max / (levels * weight_sum)
    return total.view(np.int16) * np.float64(step)
