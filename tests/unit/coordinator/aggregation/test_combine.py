import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_coordinator.aggregation.combine import BucketTotal, aggregate_bytes, mean_update
from fedge_coordinator.aggregation.strategies import apply_mean
from fedge_protocol.secagg.padding import coordinate_range_for, padded_dim
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.rotation import rotate

SEED = b"r" * 32
CLIP = 1.0
WEIGHT_MAX = 16


def bucket_of(updates: list[npt.NDArray[np.float32]], weights: list[int], levels: int) -> BucketTotal:
    """What a bucket's members send, summed in the ring as secure aggregation does."""
    dim = len(updates[0])
    total = np.zeros(padded_dim(dim), np.uint16)
    for update, weight in zip(updates, weights, strict=True):
        total += quantise(
            rotate(update, SEED),
            coordinate_range=coordinate_range_for(CLIP, dim),
            levels=levels,
            weight=weight,
            weight_max=WEIGHT_MAX,
        )
    return BucketTotal(total, levels, sum(weights))


def combined(buckets: list[BucketTotal], dim: int) -> npt.NDArray[np.float64]:
    return mean_update(
        buckets,
        dim=dim,
        coordinate_range=coordinate_range_for(CLIP, dim),
        weight_max=WEIGHT_MAX,
        rotation_seed=SEED,
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_the_mean_over_all_buckets_is_the_weighted_mean_of_the_updates(dim, sizes, seed):
    random = np.random.default_rng(seed)
    buckets: list[BucketTotal] = []
    updates: list[npt.NDArray[np.float32]] = []
    weights: list[int] = []
    for size in sizes:
        ours = [random.normal(0, 0.3 / np.sqrt(dim), dim).astype(np.float32) for _ in range(size)]
        theirs = [int(weight) for weight in random.integers(1, WEIGHT_MAX + 1, size)]
        buckets.append(bucket_of(ours, theirs, 32767 // max(size, 2)))
        updates, weights = updates + ours, weights + theirs
    expected = np.average(np.stack(updates), axis=0, weights=weights)
    # Each member's rounding is at most one level of its coordinate range, scaled by weight_max over its own weight.
    step = coordinate_range_for(CLIP, dim) / min(bucket.levels for bucket in buckets)
    bound = step * WEIGHT_MAX * len(updates) / sum(weights)
    error = np.linalg.norm(combined(buckets, dim) - expected)
    assert error <= bound * np.sqrt(padded_dim(dim))


def test_the_same_totals_give_the_same_bytes():
    random = np.random.default_rng(1)
    totals = [BucketTotal(random.integers(0, 2**16, 128).astype(np.uint16), 1023, 40) for _ in range(3)]
    assert combined(totals, 100).tobytes() == combined(totals, 100).tobytes()
    assert aggregate_bytes(totals) == b"".join(total.total.astype("<u2").tobytes() for total in totals)
    assert len(aggregate_bytes(totals)) == 3 * 256


def test_the_mean_moves_the_weights_by_the_servers_rate():
    weights = np.array([1.0, -2.0, 0.5], "<f4")
    mean = np.array([0.5, 0.25, -1.0])
    after = np.frombuffer(apply_mean(weights.tobytes(), mean, server_learning_rate=0.5), "<f4")
    np.testing.assert_array_equal(after, np.array([1.25, -1.875, 0.0], "<f4"))
    unchanged = apply_mean(weights.tobytes(), np.zeros(3), server_learning_rate=1.0)
    assert unchanged == weights.tobytes()


@pytest.mark.parametrize(
    ("mean", "match"),
    [
        (np.zeros(2), "3 weights, 2 updates"),
        (np.array([np.nan, 0, 0]), "not finite"),
        (np.array([np.inf, 0, 0]), "not finite"),
        (np.array([1e39, 0, 0]), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_that_would_not_be_numbers_any_more_are_refused(mean, match):
    with pytest.raises(ValueError, match=match):
        apply_mean(np.zeros(3, "<f4").tobytes(), mean, server_learning_rate=1.0)
