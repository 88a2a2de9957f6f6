"""Chunks: cut, shuffled, repeated, falsified, and put together."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.chunks import (
    CHUNK_BYTES,
    Assembly,
    chunk_count,
    chunk_length,
    pack_bitmap,
    split,
    unpack_bitmap,
)
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import MAX_BLOB_BYTES, BlobRef

sizes = st.one_of(
    st.integers(1, 4 * CHUNK_BYTES),
    st.sampled_from([1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]),
)


def some_blob(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311  test data


@given(sizes, st.randoms(use_true_random=False))
def test_a_blob_comes_together_from_any_order_with_repetitions(size, shuffler):
    blob = some_blob(size)
    ref, slices = split(blob)
    assert [len(part) for part in slices[:-1]] == [CHUNK_BYTES] * (len(slices) - 1)
    assert [len(part) for part in slices] == [chunk_length(size, index) for index in range(chunk_count(size))]
    order = [*range(len(slices)), *shuffler.choices(range(len(slices)), k=3)]
    shuffler.shuffle(order)
    assembly = Assembly(ref, "device")
    seen: set[int] = set()
    for index in order:
        assert assembly.accept(index, bytes(slices[index])) == (index not in seen)
        seen.add(index)
        assert assembly.missing() == tuple(sorted(set(range(len(slices))) - seen))
        assert unpack_bitmap(assembly.missing_bitmap(), len(slices)) == assembly.missing()
    assert assembly.complete
    assert assembly.blob() == blob


def test_an_incomplete_blob_is_not_given_out():
    ref, slices = split(some_blob(3 * CHUNK_BYTES))
    assembly = Assembly(ref, "device")
    assembly.accept(1, bytes(slices[1]))
    assert not assembly.complete
    with pytest.raises(RefusedError, match="2 chunks") as refused:
        assembly.blob()
    assert refused.value.reason is Reason.MISSING_BLOB


def test_the_source_of_a_falsified_blob_is_named_and_everything_is_asked_for_again():
    blob = some_blob(2 * CHUNK_BYTES)
    ref, slices = split(blob)
    assembly = Assembly(ref, "device 17")
    assembly.accept(0, bytes(slices[0]))
    assembly.accept(1, bytes(CHUNK_BYTES))
    with pytest.raises(RefusedError, match="device 17") as refused:
        assembly.blob()
    assert refused.value.reason is Reason.MALFORMED
    assert assembly.missing() == (0, 1)
    for index, part in enumerate(slices):
        assembly.accept(index, bytes(part))
    assert assembly.blob() == blob


def test_a_later_chunk_does_not_replace_an_earlier_one():
    blob = some_blob(2 * CHUNK_BYTES)
    ref, slices = split(blob)
    assembly = Assembly(ref, "device")
    for index, part in enumerate(slices):
        assembly.accept(index, bytes(part))
    assert not assembly.accept(0, bytes(CHUNK_BYTES))
    assert assembly.blob() == blob


@pytest.mark.parametrize(
    ("index", "length"), [(-1, CHUNK_BYTES), (2, 10), (0, CHUNK_BYTES - 1), (0, CHUNK_BYTES + 1), (1, 9), (1, 0)]
)
def test_a_chunk_that_does_not_belong_is_refused(index, length):
    ref = BlobRef(sha256=bytes(32), size=CHUNK_BYTES + 10)
    assembly = Assembly(ref, "device")
    with pytest.raises(RefusedError) as refused:
        assembly.accept(index, bytes(length))
    assert refused.value.reason is Reason.MALFORMED
    assert assembly.missing() == (0, 1)


@pytest.mark.parametrize(
    ("sha256", "size", "reason"),
    [
        (bytes(32), 0, Reason.MALFORMED),
        (bytes(32), -1, Reason.MALFORMED),
        (bytes(31), 10, Reason.MALFORMED),
        (bytes(32), MAX_BLOB_BYTES + 1, Reason.OVERSIZED),
    ],
)
def test_a_manifest_out_of_bounds_is_refused_before_any_memory_is_taken(sha256, size, reason):
    with pytest.raises(RefusedError) as refused:
        Assembly(BlobRef(sha256=sha256, size=size), "device")
    assert refused.value.reason is reason


def test_an_empty_blob_has_no_chunks_and_cannot_be_named():
    with pytest.raises(RefusedError):
        split(b"")


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_a_bitmap_tells_the_same_set(case):
    count, indices = case
    assert unpack_bitmap(pack_bitmap(sorted(indices), count), count) == tuple(sorted(indices))


@pytest.mark.parametrize(("bitmap", "count"), [(b"", 1), (b"\x00\x00", 8), (b"\x02", 1), (b"\x00\x80", 15)])
def test_a_bitmap_of_another_length_or_beyond_the_end_is_refused(bitmap, count):
    with pytest.raises(RefusedError) as refused:
        unpack_bitmap(bitmap, count)
    assert refused.value.reason is Reason.MALFORMED
