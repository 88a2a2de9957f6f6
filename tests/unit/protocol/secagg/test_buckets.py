import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.errors import BadInput


def ready_set(count: int, salt: str = "") -> list[tuple[str, bytes]]:
    return [
        (sha256(f"{i}".encode()).hexdigest()[:32], sha256(f"{salt}{i}n".encode()).digest()[:16]) for i in range(count)
    ]


SEED = b"s" * 32


@given(st.integers(2, 1200), st.randoms(use_true_random=False))
def test_every_device_sits_in_exactly_one_bucket_whatever_the_order_of_arrival(count, rng):
    ready = ready_set(count)
    buckets = assign(SEED, ready)
    assert sorted(device for bucket in buckets for device in bucket) == sorted(device for device, _ in ready)
    assert all(list(bucket) == sorted(bucket) for bucket in buckets)
    shuffled = list(ready)
    rng.shuffle(shuffled)
    assert assign(SEED, shuffled) == buckets


def test_up_to_64_devices_make_one_bucket_and_above_no_bucket_is_far_from_32():
    for count in range(2, 65):
        assert len(assign(SEED, ready_set(count))) == 1
    for count in range(65, 700):
        sizes = [len(bucket) for bucket in assign(SEED, ready_set(count))]
        assert 26 <= min(sizes) <= max(sizes) <= 40
        assert max(sizes) - min(sizes) <= 1


def test_one_other_seed_or_one_other_nonce_deals_other_buckets():
    ready = ready_set(100)
    buckets = assign(SEED, ready)
    assert assign(b"t" * 32, ready) != buckets
    changed = [(ready[0][0], b"another nonce 16"), *ready[1:]]
    assert assign(SEED, changed) != buckets


def test_a_device_lands_in_every_bucket_equally_often():
    device = ready_set(1)[0][0]
    others = ready_set(96)
    rng = random.Random(7)  # noqa: S311 - repeatable on purpose
    counts = [0, 0, 0]
    for _ in range(600):
        buckets = assign(rng.randbytes(32), others)
        counts[next(i for i, bucket in enumerate(buckets) if device in bucket)] += 1
    assert all(140 < count < 260 for count in counts)  # 200 +- 5 standard deviations of 11.5


@pytest.mark.parametrize(
    ("seed", "ready"),
    [
        (b"short", ready_set(4)),
        (SEED, ready_set(1)),
        (SEED, [*ready_set(4), ready_set(1)[0]]),
        (SEED, [*ready_set(4), (ready_set(1)[0][0], b"other nonce 16..")]),
        (SEED, [*ready_set(4), ("x", b"short nonce")]),
        (SEED, [*ready_set(4), ("x", b"n" * 65)]),
        (SEED, [*ready_set(4), ("", b"n" * 16)]),
        (SEED, [*ready_set(4), ("x" * 65, b"n" * 16)]),
    ],
)
def test_a_ready_set_that_is_ambiguous_or_out_of_bounds_is_refused(seed, ready):
    with pytest.raises(BadInput):
        assign(seed, ready)
