"""Rotation and quantisation: what happens to an update before it is masked and after the sum is known."""

from math import floor, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.masking import accumulate, expand, mask
from fedge_protocol.secagg.padding import coordinate_range_for, padded_dim
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.quantise import dequantise_sum, quantise
from fedge_protocol.secagg.rotation import blocks, rotate, unrotate

SEED = b"rotation seed of the round......"


def values(dim, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(dim) * scale).astype(np.float32)


@given(st.integers(1, 300_000))
def test_padding_adds_at_most_63_coordinates_and_the_blocks_cover_them(dim):
    padded = padded_dim(dim)
    assert dim <= padded <= dim + 63
    layout = blocks(padded)
    assert sum(size * count for size, count in layout) == padded
    assert all(64 <= size <= 4096 and size & (size - 1) == 0 for size, _ in layout)
    assert all(count == 1 for size, count in layout if size < 4096)


def test_the_upload_of_100_000_parameters_is_at_most_0_52_of_float32():
    assert padded_dim(100_000) * 2 <= 0.52 * 100_000 * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20_000), st.integers(0, 2**32))
def test_rotation_keeps_norm_and_inner_product_and_can_be_undone(dim, seed):
    key = seed.to_bytes(32, "little")
    one, other = values(dim, 1), values(dim, 2)
    turned, turned_other = rotate(one, key), rotate(other, key)
    assert turned.dtype == np.float32
    assert turned.shape == (padded_dim(dim),)
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(one), rel=1e-5)
    assert float(turned.astype(float) @ turned_other) == pytest.approx(
        float(one.astype(float) @ other), abs=1e-5 * size
    )
    back = unrotate(turned, dim, key)
    assert back.dtype == np.float32
    assert np.abs(back - one).max() < 1e-5 * max(1.0, float(np.abs(one).max()))
    exact = unrotate(turned.astype(np.float64), dim, key)
    assert exact.dtype == np.float64
    assert np.abs(exact - one).max() < 1e-5 * max(1.0, float(np.abs(one).max()))


def test_rotation_is_permutation_signs_and_the_hadamard_matrix_of_each_block():
    dim = 4096 * 2 + 64
    matrix = np.array([[1.0]])
    while len(matrix) < 4096:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    unit = rotate(values(dim, 3), SEED).astype(np.float64)
    two = unit[: 2 * 4096].reshape(4096, 2)
    before = np.concatenate([(matrix @ two / 64).reshape(-1), matrix[:64, :64] @ unit[2 * 4096 :] / 8])
    original = values(dim, 3).astype(np.float64)
    assert np.sort(np.abs(before)) == pytest.approx(np.sort(np.abs(original)), abs=1e-4)
    assert not np.allclose(np.abs(before), np.abs(original), atol=1e-3)  # it was permuted
    assert 0.4 < (np.sign(before) > 0).mean() < 0.6


def test_rotation_is_linear_so_the_mean_may_be_turned_back_once():
    vectors = [values(5000, seed) for seed in range(5)]
    mean = np.mean([rotate(vector, SEED).astype(np.float64) for vector in vectors], axis=0)
    assert unrotate(mean, 5000, SEED) == pytest.approx(np.mean(vectors, axis=0, dtype=np.float64), abs=1e-5)


def test_a_spike_is_spread_over_its_block_and_another_seed_spreads_it_elsewhere():
    spike = np.zeros(100_000, dtype=np.float32)
    spike[77] = 1
    turned = rotate(spike, SEED)
    assert np.abs(turned).max() <= 0.125 + 1e-6  # the smallest block has 64 coordinates
    assert np.count_nonzero(turned) >= 64
    assert not np.array_equal(rotate(spike, b"x" * 32), turned)


def test_vectors_of_the_wrong_shape_are_refused():
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(0, np.float32)):
        with pytest.raises(BadInput, match="shape"):
            rotate(wrong, SEED)
    with pytest.raises(BadInput, match="shape"):
        unrotate(np.zeros(64, np.float32), 65, SEED)
    with pytest.raises(BadInput, match="shape"):
        unrotate(np.zeros(0, np.float32), 0, SEED)


def coded(vector, seeded, *, levels=1000, weight=1, weight_max=1, coordinate_range=1.0, name="rounding"):
    return quantise(
        np.asarray(vector, dtype=np.float32),
        coordinate_range=coordinate_range,
        levels=levels,
        weight=weight,
        weight_max=weight_max,
        random=seeded(name),
    ).view(np.int16)


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 1 / 3, -0.1, -0.75, 7.9, -499.01, 999.5])
def test_rounding_is_unbiased_and_gives_only_the_two_neighbours(seeded, level):
    count = 200_000
    given_levels = coded(np.full(count, level / 1000), seeded)
    true = float(np.float32(level / 1000)) * 1000
    assert set(np.unique(given_levels)) <= {floor(true), floor(true) + 1, round(true)}
    fraction = true - floor(true)
    deviation = sqrt(fraction * (1 - fraction) / count)
    assert abs(float(given_levels.mean()) - true) < 5 * deviation + 2**-16


def test_the_probability_to_round_up_is_exact_over_all_65536_uniforms():
    """What the docstring says, in integers: of all u, exactly the fraction in units of 2^-16 rounds up."""
    uniforms = np.arange(65536, dtype=np.int64)
    for fixed in (-65536 * 3 + 1, -12345, -1, 0, 1, 32768, 65535, 65536 * 999 + 4711):
        assert ((fixed + uniforms) >> 16).sum() == fixed


@settings(deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=50),
    st.integers(1, 32767),
    st.floats(1e-6, 1e6),
)
def test_no_finite_value_leaves_the_levels(vector, levels, coordinate_range):
    result = quantise(
        np.array(vector, dtype=np.float32), coordinate_range=coordinate_range, levels=levels, weight=1, weight_max=1
    )
    assert np.abs(result.view(np.int16).astype(int)).max() <= levels


def test_the_extremes_are_coded_exactly(seeded):
    for levels in (1, 255, 1023, 16383, 32767):
        assert list(coded([1.0, -1.0, 5.0, -5.0, 0.0], seeded, levels=levels)) == [levels, -levels, levels, -levels, 0]


def test_weights_scale_before_clipping(seeded):
    assert list(coded([1.0, 2.0, 8.0], seeded, weight=1, weight_max=4)) == [250, 500, 1000]


def test_the_weighted_mean_comes_back_within_the_rounding_error(seeded):
    vectors, weights, levels = [values(10_000, i, 0.1) for i in range(20)], list(range(1, 21)), 1638
    total = np.zeros(10_000, dtype=np.uint16)
    for i, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        total += coded(vector, seeded, levels=levels, weight=weight, weight_max=20, name=f"r{i}").view(np.uint16)
    mean = dequantise_sum(total, coordinate_range=1.0, levels=levels, weight_sum=sum(weights), weight_max=20)
    assert mean.dtype == np.float64
    true = np.average(vectors, axis=0, weights=weights)
    step = 20 / (levels * sum(weights))
    error = mean - true
    assert np.abs(error).max() < 20 * step
    assert abs(error.mean()) < 5 * step * sqrt(20 / 6) / sqrt(10_000)
    assert float(np.sqrt((error**2).mean())) == pytest.approx(step * sqrt(20 / 6), rel=0.05)


def test_two_codings_differ_and_the_default_randomness_is_fresh(seeded):
    vector = values(1000, 1, 0.1)
    assert not np.array_equal(coded(vector, seeded, name="a"), coded(vector, seeded, name="b"))
    one, other = (quantise(vector, coordinate_range=1.0, levels=99, weight=1, weight_max=1) for _ in range(2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_update_that_is_not_finite_is_refused(value, seeded):
    with pytest.raises(BadInput, match="not finite"):
        coded([0.0, value], seeded)


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": 0},
        {"levels": 32768},
        {"weight": 0},
        {"weight": 2},
        {"weight_max": 0},
        {"coordinate_range": 0.0},
        {"coordinate_range": float("nan")},
        {"coordinate_range": float("inf")},
        {"coordinate_range": 1e-40},
    ],
)
def test_coding_parameters_out_of_bounds_are_refused(changes, seeded):
    with pytest.raises(BadInput):
        coded([0.0], seeded, **changes)


def test_the_range_is_six_standard_deviations_of_a_block_that_holds_the_whole_norm():
    assert coordinate_range_for(1.0, 100_000) == pytest.approx(6 / 64)
    assert coordinate_range_for(2.0, 1000) == pytest.approx(12 / 32)
    vector = values(100_000, 5)
    vector /= np.linalg.norm(vector)
    assert np.abs(rotate(vector, SEED)).max() < coordinate_range_for(1.0, 100_000)


@pytest.mark.parametrize("suite", list(Suite))
def test_masks_are_added_and_removed_in_the_ring_and_the_input_is_left_alone(suite):
    vector = np.arange(70_000, dtype=np.uint16)
    kept = vector.copy()
    seeds = [(1, b"1" * 32), (-1, b"2" * 32)]
    masked = mask(vector, self_seed=b"0" * 32, pairs=seeds, suite=suite)
    assert np.array_equal(vector, kept)
    parts = [expand(seed * 32, 70_000, suite) for seed in (b"0", b"1", b"2")]
    assert np.array_equal(masked, vector + parts[0] + parts[1] - parts[2])
    accumulate(masked, [(-1, b"0" * 32), (-1, b"1" * 32), (1, b"2" * 32)], suite)
    assert np.array_equal(masked, vector)


def test_a_mask_has_a_sign_of_plus_or_minus_one():
    with pytest.raises(BadInput, match="sign of a mask is 0"):
        accumulate(np.zeros(4, np.uint16), [(0, b"s" * 32)], Suite.CHACHA20)
