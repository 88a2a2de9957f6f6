import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_agent.kernel.features import FEATURES, FeatureVector, Source
from fedge_agent.kernel.telemetry_ring import HEADER, RECORD, TelemetryRing, read_ring

MANY = len(FEATURES)


def vector(number: float, *, missing: int = 0) -> FeatureVector:
    values = [float(number)] * MANY
    sources = [Source.KERNEL] * MANY
    for index in range(missing):
        values[index], sources[index] = math.nan, Source.MISSING
    return FeatureVector(tuple(values), tuple(sources), 0, 10.0)


def room_for(windows: int) -> int:
    return HEADER.size + windows * RECORD.size


def numbers(path) -> list[int]:
    return [window.number for window in read_ring(path)]


def test_the_newest_windows_are_kept_and_the_file_never_outgrows_its_cap(tmp_path):
    path, cap = tmp_path / "ring", room_for(5) + RECORD.size - 1
    with TelemetryRing(path, cap) as ring:
        for number in range(1, 13):
            ring.append(vector(number), number * 1000)
            assert path.stat().st_size <= cap
    windows = read_ring(path)
    assert [window.number for window in windows] == [8, 9, 10, 11, 12]
    assert [window.values[3] for window in windows] == [8, 9, 10, 11, 12]
    assert [window.end_ms for window in windows] == [8000, 9000, 10_000, 11_000, 12_000]


def test_a_missing_feature_is_nan_and_a_zero_bit_never_zero(tmp_path):
    with TelemetryRing(tmp_path / "ring", room_for(2)) as ring:
        ring.append(vector(0, missing=2), 1)
    (window,) = read_ring(tmp_path / "ring")
    assert math.isnan(window.values[0])
    assert math.isnan(window.values[1])
    assert window.values[2] == 0.0
    assert window.present_mask == (1 << MANY) - 1 - 0b11


def test_a_ring_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "ring"
    for number in range(1, 8):
        with TelemetryRing(path, room_for(3)) as ring:
            ring.append(vector(number), number)
    assert numbers(path) == [5, 6, 7]


@settings(max_examples=60, deadline=None)  # it waits for the disk
@given(written=st.integers(0, 12), cut=st.integers(0, room_for(5)), garbage=st.binary(max_size=64))
def test_whatever_a_power_cut_leaves_whole_windows_are_read_and_writing_goes_on(
    tmp_path_factory, written, cut, garbage
):
    path = tmp_path_factory.mktemp("ring") / "ring"
    with TelemetryRing(path, room_for(5)) as ring:
        for number in range(1, written + 1):
            ring.append(vector(number), number)
    content = path.read_bytes()
    path.write_bytes(content[:cut] + garbage + content[cut + len(garbage) :])
    for window in read_ring(path):
        assert window.values == (float(window.number),) * MANY
    with TelemetryRing(path, room_for(5)) as ring:
        ring.append(vector(99), 99)
    assert path.stat().st_size <= room_for(5)
    assert read_ring(path)[-1].values[0] == 99.0


def test_a_ring_of_another_version_or_size_begins_anew(tmp_path):
    path = tmp_path / "ring"
    with TelemetryRing(path, room_for(4)) as ring:
        ring.append(vector(1), 1)
    changed = bytearray(path.read_bytes())
    changed[8] += 1  # the vector's version
    path.write_bytes(bytes(changed))
    assert read_ring(path) == ()
    with TelemetryRing(path, room_for(4)):
        pass
    assert read_ring(path) == ()
    with TelemetryRing(path, room_for(9)) as ring:
        ring.append(vector(5), 5)
    assert numbers(path) == [1]


def test_windows_are_held_until_there_are_enough_for_one_write(tmp_path):
    path = tmp_path / "ring"
    with TelemetryRing(path, room_for(9), write_every=3) as ring:
        seen = []
        for number in range(1, 8):
            ring.append(vector(number), number)
            seen.append(len(numbers(path)))
        assert seen == [0, 0, 3, 3, 3, 6, 6]
        ring.flush()
        assert numbers(path) == [1, 2, 3, 4, 5, 6, 7]


def test_a_disk_that_refuses_costs_the_windows_of_one_write_and_no_memory(tmp_path):
    path = tmp_path / "ring"
    ring = TelemetryRing(path, room_for(9), write_every=2)
    descriptor, ring._file = ring._file, os.open("/dev/full", os.O_WRONLY)
    ring.append(vector(1), 1)
    with pytest.raises(OSError, match="No space left"):
        ring.append(vector(2), 2)
    os.close(ring._file)
    ring._file = descriptor
    ring.append(vector(3), 3)
    ring.close()
    assert numbers(path) == [3]


def test_a_ring_without_room_for_one_window_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no window"):
        TelemetryRing(tmp_path / "ring", HEADER.size)
