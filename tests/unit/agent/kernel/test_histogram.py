import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.kernel.histogram import difference, percentile_us


def slots(values):
    counts = [0] * 32
    for value in values:
        counts[max(value, 1).bit_length() - 1] += 1
    return tuple(counts)


@given(st.lists(st.integers(0, 2**31), min_size=20, max_size=300), st.floats(0.05, 1.0))
def test_a_percentile_is_within_a_factor_of_two_of_the_exact_one(values, share):
    estimate = percentile_us(slots(values), share)
    exact = sorted(values)[max(-(-int(share * len(values) * 1e9) // 10**9) - 1, 0)]
    assert estimate is not None
    assert estimate >= exact / 2 - 1
    neighbour = sorted(values)[min(int(share * len(values)), len(values) - 1)]
    assert estimate <= max(neighbour, 1) * 2


def test_too_few_samples_are_unknown_not_fast():
    assert percentile_us(slots([5] * 19), 0.95) is None
    assert percentile_us(slots([5] * 20), 0.95) is not None


def test_a_restarted_histogram_counts_from_zero():
    assert difference((1, 2), (5, 0)) == (1, 2)
    assert difference((6, 2), (5, 0)) == (1, 2)


def test_readings_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        difference((1, 2), (1,))
