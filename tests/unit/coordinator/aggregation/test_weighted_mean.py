"""The aggregate is the weighted mean of the quantised updates, exactly; only the test keeps the clear updates."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_coordinator.aggregation.combine import BucketTotal, aggregate_bytes, mean_update
from fedge_coordinator.aggregation.strategies import apply_mean
from fedge_protocol.secagg.padding import coordinate_range_for, padded_dim
from fedge_protocol.secagg.params import BucketParams
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.rotation import rotate, unrotate

DIM = 100
CLIP_NORM = 1.0
WEIGHT_MAX = 8
RANGE = coordinate_range_for(CLIP_NORM, DIM)
SEED = hashlib.sha256(b"rotation").digest()


@dataclass(frozen=True)
class Clear:
    """One device's update as only the device and this test know it: `coded` is what goes under the mask."""

    update: npt.NDArray[np.float32]
    weight: int
    coded: npt.NDArray[np.uint16]


def clear_updates(weights: list[int], seed: int) -> list[Clear]:
    """Fixed updates of norm below the clip, coded for a bucket of all of them with fixed rounding."""
    rng = np.random.default_rng(seed)
    levels = BucketParams.for_size(len(weights)).levels
    found = []
    for number, weight in enumerate(weights):
        update = rng.normal(0, 0.05, DIM).astype(np.float32)
        coded = quantise(
            rotate(update, SEED),
            coordinate_range=RANGE,
            levels=levels,
            weight=weight,
            weight_max=WEIGHT_MAX,
            random=lambda size, number=number: hashlib.sha256(bytes([seed, number])).digest()[:size],  # type: ignore[misc]
        )
        found.append(Clear(update, weight, coded))
    return found


def total_of(updates: list[Clear]) -> BucketTotal:
    """What unmasking gives: the sum in the ring."""
    total = np.zeros(padded_dim(DIM), np.uint16)
    for each in updates:
        total += each.coded
    return BucketTotal(total, BucketParams.for_size(len(updates)).levels, sum(each.weight for each in updates))


def exact_mean(buckets: list[list[Clear]]) -> list[Fraction]:
    """The weighted mean of the quantised updates, still rotated, in rational numbers.

    A coded value v of a device stands for v * RANGE * WEIGHT_MAX / levels, its weight already in it.
    """
    weight = sum(each.weight for bucket in buckets for each in bucket)
    mean = [Fraction(0)] * padded_dim(DIM)
    for bucket in buckets:
        step = Fraction(RANGE) * WEIGHT_MAX / BucketParams.for_size(len(bucket)).levels
        for each in bucket:
            for at, value in enumerate(each.coded.view(np.int16).tolist()):
                mean[at] += step * value / weight
    return mean


def mean_of(buckets: list[list[Clear]]) -> npt.NDArray[np.float64]:
    totals = [total_of(bucket) for bucket in buckets]
    return mean_update(totals, dim=DIM, coordinate_range=RANGE, weight_max=WEIGHT_MAX, rotation_seed=SEED)


@pytest.mark.parametrize(
    "weights",
    [[[3, 1, 8, 2]], [[1] * 5], [[8, 1, 4, 4, 2], [7, 7, 1]], [[1] * 32, [8] * 34]],
    ids=["one bucket", "equal weights", "two buckets", "two buckets of another size"],
)
def test_the_mean_is_the_weighted_mean_of_the_quantised_updates(weights: list[list[int]]):
    """Against rational arithmetic: the integers are exact, the floats differ by their own rounding only."""
    buckets = [clear_updates(bucket, seed=1 + number) for number, bucket in enumerate(weights)]
    expected = unrotate(np.array([float(value) for value in exact_mean(buckets)]), DIM, SEED)
    np.testing.assert_allclose(mean_of(buckets), expected, rtol=0.0, atol=8 * float(np.finfo(np.float64).eps) * RANGE)


def test_the_mean_is_within_half_a_level_a_device_of_the_mean_of_the_clear_updates():
    """Quantising costs no more than it may; a wrong weight or scale would be far off."""
    buckets = [clear_updates([8, 1, 4, 4, 2], seed=1), clear_updates([7, 7, 1], seed=2)]
    everybody = [each for bucket in buckets for each in bucket]
    clear = np.average([each.update for each in everybody], axis=0, weights=[each.weight for each in everybody])
    step = RANGE * WEIGHT_MAX / BucketParams.for_size(5).levels
    bound = np.sqrt(padded_dim(DIM)) * step * len(everybody) / sum(each.weight for each in everybody)
    assert np.linalg.norm(mean_of(buckets) - clear) < bound < 0.05 * np.linalg.norm(clear)


def test_the_next_weights_are_the_old_ones_and_the_mean_in_float32():
    buckets = [clear_updates([8, 1, 4, 4, 2], seed=3), clear_updates([7, 7, 1], seed=4)]
    before = np.random.default_rng(5).normal(size=DIM).astype("<f4")
    after = np.frombuffer(apply_mean(before.tobytes(), mean_of(buckets), server_learning_rate=1.0), "<f4")
    mean = unrotate(np.array([float(value) for value in exact_mean(buckets)]), DIM, SEED)
    np.testing.assert_array_equal(after, (before.astype(np.float64) + mean).astype("<f4"))


def test_the_same_totals_give_the_same_bytes_and_any_other_total_others():
    buckets = [clear_updates([8, 1, 4], seed=6), clear_updates([7, 7, 1], seed=7)]
    totals = [total_of(bucket) for bucket in buckets]
    assert aggregate_bytes(totals) == aggregate_bytes([total_of(bucket) for bucket in buckets])
    assert mean_of(buckets).tobytes() == mean_of(buckets).tobytes()
    altered = totals[0].total.copy()
    altered[0] += 1
    assert aggregate_bytes(
        [BucketTotal(altered, totals[0].levels, totals[0].weight_sum), totals[1]]
    ) != aggregate_bytes(totals)


@given(weights=st.lists(st.integers(1, WEIGHT_MAX), min_size=2, max_size=6), seed=st.integers(0, 255))
def test_updates_that_are_all_the_same_have_themselves_as_mean_whatever_the_weights(weights: list[int], seed: int):
    one = clear_updates([1, 1], seed)[0]
    levels = BucketParams.for_size(len(weights)).levels
    total = np.zeros(padded_dim(DIM), np.uint16)
    for weight in weights:
        total += quantise(
            rotate(one.update, SEED), coordinate_range=RANGE, levels=levels, weight=weight, weight_max=WEIGHT_MAX
        )
    mean = mean_update(
        [BucketTotal(total, levels, sum(weights))],
        dim=DIM,
        coordinate_range=RANGE,
        weight_max=WEIGHT_MAX,
        rotation_seed=SEED,
    )
    step = RANGE * WEIGHT_MAX / levels * len(weights) / sum(weights)
    assert np.abs(rotate(mean.astype(np.float32), SEED) - rotate(one.update, SEED)).max() < step * 1.01


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e39])
def test_weights_that_would_not_be_finite_are_refused(bad: float):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="not finite"):
        apply_mean(np.zeros(3, "<f4").tobytes(), np.array([0.0, bad, 0.0]), server_learning_rate=1.0)


def test_a_mean_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 weights, 4 updates"):
        apply_mean(np.zeros(3, "<f4").tobytes(), np.zeros(4), server_learning_rate=1.0)
