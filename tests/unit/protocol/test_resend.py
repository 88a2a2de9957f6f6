"""The resender: a clock that is turned by hand, and messages that are lost as often as hypothesis likes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.backoff import Backoff
from fedge_protocol.resend import MessageKey, Resender, ResendFullError

DOUBLING = Backoff(first_s=1.0, factor=2.0, ceiling_s=8.0)


def always_longest() -> float:
    return 1.0


def keys_of(pending):
    return [one.key for one in pending]


def test_an_item_is_due_at_once_and_then_ever_more_rarely_until_it_is_acknowledged():
    resender: Resender[str, bytes] = Resender(always_longest, backoff=DOUBLING)
    resender.add("a", b"item", now_s=0.0, deadline_s=1000.0)
    sent = []
    for _ in range(7):
        next_s = resender.next_at()
        assert next_s is not None
        assert resender.due(next_s - 1e-9) == []
        (pending,) = resender.due(next_s)
        assert pending.item == b"item"
        sent.append(next_s)
    assert sent == [0.0, 1.0, 3.0, 7.0, 15.0, 23.0, 31.0]
    assert resender.acknowledge("a") == b"item"
    assert resender.acknowledge("a") is None
    assert resender.next_at() is None
    assert resender.due(1000.0) == []


def test_the_jitter_spreads_the_waits_between_floor_and_growth():
    backoff = Backoff(first_s=4.0, factor=2.0, ceiling_s=60.0, floor_s=2.0)
    assert backoff.delay_s(0, lambda: 0.0) == 2.0
    assert backoff.delay_s(0, lambda: 0.5) == 3.0
    assert backoff.delay_s(10**9, lambda: 1.0) == 60.0


@pytest.mark.parametrize(
    "numbers",
    [
        {"first_s": 0},
        {"first_s": 2, "ceiling_s": 1},
        {"factor": 0.5},
        {"floor_s": -1},
        {"first_s": 1, "floor_s": 2},
    ],
)
def test_contradicting_waits_are_refused(numbers):
    with pytest.raises(ValueError, match="want"):
        Backoff(**numbers)


def test_adding_twice_sends_once():
    resender: Resender[MessageKey, bytes] = Resender(always_longest)
    key = MessageKey("coordinator", "masked", 7, 0, bytes(32))
    resender.add(key, b"first", now_s=0.0, deadline_s=10.0)
    resender.add(MessageKey("coordinator", "masked", 7, 0, bytes(32)), b"second", now_s=0.0, deadline_s=10.0)
    assert [pending.item for pending in resender.due(0.0)] == [b"first"]
    resender.add(MessageKey("coordinator", "masked", 7, 1, bytes(32)), b"third", now_s=0.0, deadline_s=10.0)
    assert [pending.item for pending in resender.due(0.0)] == [b"third"]


def test_what_passes_its_deadline_is_not_sent_but_reported():
    resender: Resender[str, bytes] = Resender(always_longest, backoff=DOUBLING)
    resender.add("late", b"x", now_s=0.0, deadline_s=2.5)
    resender.add("dead", b"y", now_s=5.0, deadline_s=4.0)
    assert keys_of(resender.due(0.0)) == ["late"]
    assert keys_of(resender.due(1.0)) == ["late"]
    assert resender.next_at() == 2.5
    assert resender.due(5.0) == []
    assert sorted(keys_of(resender.take_expired())) == ["dead", "late"]
    assert resender.take_expired() == []
    assert len(resender) == 0
    assert resender.next_at() is None


def test_after_a_loss_everything_is_due_at_once():
    resender: Resender[int, bytes] = Resender(always_longest, backoff=DOUBLING)
    for key in range(3):
        resender.add(key, b"", now_s=0.0, deadline_s=1000.0)
    resender.due(0.0)
    resender.acknowledge(1)
    resender.hurry(0.5)
    resender.hurry(0.5)
    assert sorted(keys_of(resender.due(0.5))) == [0, 2]
    assert resender.due(0.5) == []


def test_a_full_resender_refuses_and_has_room_again_after_an_acknowledgement():
    resender: Resender[int, bytes] = Resender(always_longest, capacity=2)
    resender.add(1, b"", now_s=0.0, deadline_s=1.0)
    resender.add(2, b"", now_s=0.0, deadline_s=100.0)
    with pytest.raises(ResendFullError):
        resender.add(3, b"", now_s=0.0, deadline_s=100.0)
    resender.due(2.0)
    with pytest.raises(ResendFullError):
        resender.add(3, b"", now_s=2.0, deadline_s=100.0)
    resender.take_expired()
    resender.add(3, b"", now_s=2.0, deadline_s=100.0)
    assert 3 in resender


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["add", "ack", "hurry", "tick"])), max_size=60), st.data())
def test_whatever_happens_each_item_is_sent_until_it_is_acknowledged_or_expires(steps, data):
    resender: Resender[int, int] = Resender(
        lambda: data.draw(st.floats(0, 0.999)), backoff=Backoff(first_s=1.0, factor=3.0, ceiling_s=9.0)
    )
    now_s = 0.0
    waiting: dict[int, float] = {}
    for key, step in steps:
        now_s += 0.7
        if step == "add":
            resender.add(key, key, now_s=now_s, deadline_s=waiting.setdefault(key, now_s + 12.0))
        elif step == "ack":
            assert (resender.acknowledge(key) is not None) == (waiting.pop(key, None) is not None)
        elif step == "hurry":
            resender.hurry(now_s)
        for pending in resender.due(now_s):
            assert now_s < waiting[pending.key]
            assert pending.sends >= 1
        for pending in resender.take_expired():
            assert waiting.pop(pending.key) <= now_s
        assert len(resender) == len(waiting)
        assert all(key in resender for key in waiting)
        next_s = resender.next_at()
        assert (next_s is None) == (not waiting)
        assert next_s is None or now_s < next_s <= min(max(waiting.values()), now_s + 9.0)
