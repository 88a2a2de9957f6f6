"""The weighted mean of a round's updates from its bucket sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge_protocol.secagg.quantise import dequantise_sum
from fedge_protocol.secagg.rotation import unrotate


@dataclass(frozen=True)
class BucketTotal:
    """One bucket: `total` (padded_dim,) uint16 in the ring, its quantisation levels, its survivors' weights."""

    total: npt.NDArray[np.uint16]
    levels: int
    weight_sum: int


def mean_update(
    buckets: Sequence[BucketTotal], *, dim: int, coordinate_range: float, weight_max: int, rotation_seed: bytes
) -> npt.NDArray[np.float64]:
    """Sum of w_i * update_i over sum of w_i, over all survivors of all buckets; (dim,) float64.

    Each bucket gives its own weighted mean; buckets count by their weight. The integers are exact, the floats follow
    from them in one fixed order, so the same totals give the same bytes anywhere.
    """
    weight = sum(bucket.weight_sum for bucket in buckets)
    rotated = np.zeros(buckets[0].total.shape, np.float64)
    for bucket in buckets:
        mean = dequantise_sum(
            bucket.total,
            coordinate_range=coordinate_range,
            levels=bucket.levels,
            weight_sum=bucket.weight_sum,
            weight_max=weight_max,
        )
        rotated += mean * (bucket.weight_sum / weight)
    return unrotate(rotated, dim, rotation_seed)


def aggregate_bytes(buckets: Sequence[BucketTotal]) -> bytes:
    """The bucket totals as little-endian uint16, in order: what the chain's aggregateHash is the SHA-256 of."""
    return b"".join(bucket.total.astype("<u2").tobytes() for bucket in buckets)
