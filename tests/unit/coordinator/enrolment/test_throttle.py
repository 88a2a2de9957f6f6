from hypothesis import given
from hypothesis import strategies as st

from fedge_coordinator.enrolment.throttle import Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_granted_then_one_at_a_time_and_others_are_not_held_back():
    clock = Clock()
    throttle = Throttle(per_s=2, burst=3, clock=clock)
    assert [throttle.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert throttle.take("b") == 0
    clock.now += 0.5
    assert throttle.take("a") == 0
    assert throttle.take("a") > 0


@given(st.lists(st.floats(0, 3), max_size=60))
def test_nobody_gets_more_than_burst_and_rate_allow(pauses):
    clock = Clock()
    throttle = Throttle(per_s=1, burst=5, clock=clock)
    granted = 0
    for pause in pauses:
        clock.now += pause
        granted += throttle.take("a") == 0
    assert granted <= 5 + (clock.now - Clock.now)


def test_many_callers_cost_bounded_memory():
    throttle = Throttle(per_s=1, burst=1, clock=Clock(), capacity=10)
    for number in range(1000):
        throttle.take(str(number))
    assert len(throttle._buckets) == 10
