"""Nobody reads the refusals: the ring fills up, what is lost is counted, and a reader that comes finds the rest."""

import struct

import pytest

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.reader import DenialStream, MapReader
from fedge_agent.kernel.records import Counter
from fedge_agent.telemetry_view import draw

A_SECOND_OF_EVENTS = 16
RING_BYTES, EVENT_BYTES = 65_536, 48  # a record of 40 bytes behind its head of 8
EMPTY_WINDOW = struct.pack("=QII", 0, 0, 0)  # as if a second had passed


def frame_to(address: bytes) -> bytes:
    """A UDP packet to a peer that no rule allows."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 1, 0, 64, 17, 0, bytes(4), address)
    return bytes(12) + b"\x08\x00" + head + struct.pack("!HH", 4000, 9) + bytes(36)


@pytest.fixture
def reader(admission):
    with MapReader(admission._pin_dir) as reader:
        yield reader


def refuse(admission, times: int) -> None:
    """So many refusals, without waiting for the seconds that the rate limit wants between them."""
    for _ in range(times // A_SECOND_OF_EVENTS):
        libbpf.update(admission._map("fedge_pace"), bytes(4), EMPTY_WINDOW, "the pace")
        admission.verdict("fedge_egress", frame_to(bytes((192, 0, 2, 9))), repeat=A_SECOND_OF_EVENTS)


def test_events_that_found_the_ring_full_are_counted_as_lost_and_shown(admission, reader):
    admission.follow()
    with DenialStream(admission._pin_dir) as former:
        former.take()
    before = reader.network()
    fits = RING_BYTES // EVENT_BYTES
    refuse(admission, 2 * fits)
    told = {counter: reader.network()[counter] - before[counter] for counter in Counter}
    assert told[Counter.EVENTS_LOST] >= fits - A_SECOND_OF_EVENTS
    events = (Counter.EVENTS_SENT, Counter.EVENTS_LOST, Counter.EVENTS_SUPPRESSED)
    assert sum(told[counter] for counter in events) == told[Counter.DENIED_EGRESS]
    assert told[Counter.EVENTS_SENT] <= fits
    with DenialStream(admission._pin_dir) as stream:
        assert len(stream.take()) == told[Counter.EVENTS_SENT]
        refuse(admission, A_SECOND_OF_EVENTS)
        assert len(stream.take()) == A_SECOND_OF_EVENTS
        assert stream.malformed == 0
    counters = {counter.name.lower(): total for counter, total in reader.network().items()}
    shown = draw(
        {"features": [], "histograms": {}, "counters": counters, "budget": None, "unreadable": None, "ring": None}
    )
    assert f"lost for a full ring: {reader.network()[Counter.EVENTS_LOST]}" in shown
