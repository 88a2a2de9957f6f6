from dataclasses import replace

import pytest

from fedge_protocol.secagg.errors import BadParams
from fedge_protocol.secagg.params import MAX_SIZE, MIN_SIZE, BucketParams, Suite


def test_the_default_bucket_of_32_has_threshold_22_and_1023_levels():
    params = BucketParams.for_size(32, Suite.AES128_CTR)
    assert (params.threshold, params.levels, params.suite, params.ring_bits) == (22, 1023, Suite.AES128_CTR, 16)
    assert (params.tolerated_drops, params.tolerated_colluders) == (10, 11)


@pytest.mark.parametrize("size", range(MIN_SIZE, MAX_SIZE + 1))
def test_for_every_size_a_full_sum_fits_the_ring_and_no_two_disjoint_majorities_exist(size):
    params = BucketParams.for_size(size)
    assert size * params.levels <= 32767
    assert size < 2 * params.threshold <= 2 * size
    assert params.tolerated_colluders >= 0


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"size": 1}, "size 1"),
        ({"size": 129}, "size 129"),
        ({"threshold": 21}, "threshold 21"),
        ({"threshold": 33}, "threshold 33"),
        ({"threshold": 16}, "threshold 16"),
        ({"levels": 0}, "levels 0"),
        ({"levels": 1024}, "levels 1024"),
        ({"ring_bits": 32}, "ring_bits 32"),
        ({"suite": 3}, "suite 3"),
    ],
)
def test_parameters_that_are_not_safe_are_refused_by_name(change, names):
    with pytest.raises(BadParams, match=names):
        replace(BucketParams.for_size(32), **change)


@pytest.mark.parametrize("size", [-1, 0, 1, 129])
def test_there_are_no_default_parameters_for_an_impossible_size(size):
    with pytest.raises(BadParams, match=f"size {size}"):
        BucketParams.for_size(size)
