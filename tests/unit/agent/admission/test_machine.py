"""Properties of the admission machine under any order of events."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedge_agent.admission.judgement import Signals, judge
from fedge_agent.admission.machine import AdmissionMachine, NotAdmittedError
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as State

POLICY = AdmissionPolicy()
QUIET = Signals(run_queue_p95_us=100, cpu_some=0.0, memory_some=0.0, io_some=0.0)
BETWEEN = Signals(cpu_some=0.10)
LOUD = Signals(cpu_some=0.90)
BLIND = Signals(temperature_c=30)
ALLOWED = {
    (State.IDLE, State.ADMITTED),
    (State.ADMITTED, State.RUNNING),
    (State.ADMITTED, State.IDLE),
    (State.RUNNING, State.PAUSED),
    (State.PAUSED, State.RUNNING),
    (State.PAUSED, State.ABORTED),
}


def admitted(now_s=0.0):
    machine = AdmissionMachine(POLICY)
    machine.seek(now_s)
    machine.observe(QUIET, now_s)
    machine.observe(QUIET, now_s + POLICY.enter_after_s)
    assert machine.decision.state is State.ADMITTED
    return machine


def running(deadline_s=1000.0):
    machine = admitted()
    machine.start(5.0, deadline_s)
    return machine


def paused(deadline_s=1000.0):
    machine = running(deadline_s)
    for step in range(POLICY.pause_after_windows):
        machine.observe(LOUD, 6.0 + step)
    assert machine.decision.state is State.PAUSED
    return machine


def test_a_job_is_admitted_after_quiet_for_long_enough_and_not_earlier():
    machine = AdmissionMachine(POLICY)
    assert machine.seek(0.0).reason is Reason.SETTLING
    assert machine.observe(QUIET, 1.0).state is State.IDLE
    assert machine.observe(QUIET, 2.9).state is State.IDLE
    assert machine.observe(QUIET, 3.0).state is State.ADMITTED


def test_one_unquiet_window_starts_the_wait_anew_and_says_why():
    machine = AdmissionMachine(POLICY)
    machine.seek(0.0)
    machine.observe(QUIET, 1.0)
    refused = machine.observe(BETWEEN, 2.0)
    assert (refused.state, refused.reason) == (State.IDLE, Reason.CPU_PRESSURE)
    assert "0.1 is not under 0.05" in refused.text
    assert machine.observe(QUIET, 3.0).state is State.IDLE
    assert machine.observe(QUIET, 5.0).state is State.ADMITTED


def test_a_worker_pauses_at_the_second_loud_window_in_a_row_not_at_the_first():
    machine = running()
    assert machine.observe(LOUD, 6.0).state is State.RUNNING
    assert machine.observe(QUIET, 6.2).state is State.RUNNING
    assert machine.observe(LOUD, 6.4).state is State.RUNNING
    assert machine.observe(LOUD, 6.6).state is State.PAUSED


def test_between_the_marks_a_running_worker_runs_and_a_paused_one_stays_paused():
    machine = running()
    for step in range(50):
        assert machine.observe(BETWEEN, 6.0 + step).state is State.RUNNING
    machine = paused()
    for step in range(50):
        assert machine.observe(BETWEEN, 10.0 + step).state is State.PAUSED


def test_a_paused_worker_resumes_after_as_many_quiet_windows_in_a_row_as_the_policy_says():
    machine = paused()
    for step in range(POLICY.resume_after_windows - 1):
        assert machine.observe(QUIET, 10.0 + step).state is State.PAUSED
    assert machine.observe(QUIET, 30.0).state is State.RUNNING


def test_a_protected_worker_is_never_paused_and_a_paused_one_is_let_go():
    machine = paused()
    assert machine.protect(9.0).state is State.RUNNING
    for step in range(20):
        assert machine.observe(LOUD, 10.0 + step).state is State.RUNNING
    assert machine.hold(40.0).state is State.RUNNING
    assert machine.rest(41.0).state is State.IDLE
    assert machine.seek(42.0).reason is Reason.OWNER


def test_the_owner_pauses_at_once_and_training_resumes_only_when_quiet_again():
    machine = running()
    assert machine.hold(6.0).reason is Reason.OWNER
    for step in range(30):
        assert machine.observe(QUIET, 7.0 + step).state is State.PAUSED
    assert machine.release(40.0).state is State.PAUSED
    for step in range(POLICY.resume_after_windows):
        machine.observe(QUIET, 41.0 + step)
    assert machine.decision.state is State.RUNNING


def test_a_pause_beyond_the_deadline_aborts_even_when_it_is_quiet_then():
    machine = paused(deadline_s=20.0)
    assert machine.observe(QUIET, 19.0).state is State.PAUSED
    aborted = machine.observe(QUIET, 20.0)
    assert (aborted.state, aborted.reason) == (State.ABORTED, Reason.DEADLINE)
    assert not machine.wanted
    assert machine.rest(21.0).state is State.IDLE


def test_a_worker_cannot_start_unless_admitted():
    machine = AdmissionMachine(POLICY)
    with pytest.raises(NotAdmittedError, match="no job"):
        machine.start(0.0, 1.0)


def test_a_device_that_shows_no_cpu_signal_does_not_train():
    machine = AdmissionMachine(POLICY)
    machine.seek(0.0)
    assert machine.observe(BLIND, 5.0).reason is Reason.SIGNALS_MISSING
    machine = running()
    machine.observe(BLIND, 6.0)
    assert machine.observe(BLIND, 7.0).state is State.PAUSED


@pytest.mark.parametrize(
    ("signals", "over", "unquiet"),
    [
        (QUIET, None, None),
        (Signals(run_queue_p95_us=1500), None, Reason.RUN_QUEUE),
        (Signals(run_queue_p95_us=2500), Reason.RUN_QUEUE, Reason.RUN_QUEUE),
        (Signals(cpu_some=0, memory_some=0.06), Reason.MEMORY_PRESSURE, Reason.MEMORY_PRESSURE),
        (Signals(cpu_some=0, io_some=0.10), None, Reason.IO_PRESSURE),
        (Signals(cpu_some=0, temperature_c=75), None, Reason.TEMPERATURE),
        (Signals(cpu_some=0, temperature_c=81), Reason.TEMPERATURE, Reason.TEMPERATURE),
        (Signals(cpu_some=0, on_mains=False, battery_percent=90), None, None),
        (Signals(cpu_some=0, on_mains=False, battery_percent=35), None, Reason.BATTERY_LOW),
        (Signals(cpu_some=0, on_mains=False, battery_percent=20), Reason.BATTERY_LOW, Reason.BATTERY_LOW),
        (Signals(cpu_some=0, on_mains=True, battery_percent=5), None, None),
    ],
)
def test_each_signal_is_judged_by_its_own_marks(signals, over, unquiet):
    judgement = judge(signals, POLICY)
    assert (judgement.over and judgement.over[0]) == over
    assert (judgement.unquiet and judgement.unquiet[0]) == unquiet


def test_on_battery_a_policy_that_requires_mains_refuses():
    policy = AdmissionPolicy(require_mains=True)
    judgement = judge(Signals(cpu_some=0, on_mains=False, battery_percent=100), policy)
    assert judgement.over is not None
    assert judgement.over[0] is Reason.ON_BATTERY


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, time going forward."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = AdmissionMachine(POLICY)
        self.now_s = 0.0
        self.previous = self.machine.decision
        self.protected = False
        self.resting = True
        self.loud_in_a_row = 0

    def after(self, decision):
        self.now_s += 0.2
        assert decision is self.machine.decision
        before, self.previous = self.previous.state, decision
        if before is not decision.state:
            assert (before, decision.state) in ALLOWED or decision.state is State.IDLE
        assert decision.text

    @rule()
    def seek(self):
        self.resting = False
        self.after(self.machine.seek(self.now_s))

    @rule()
    def rest(self):
        self.protected = False
        self.resting = True
        self.after(self.machine.rest(self.now_s))
        assert self.machine.decision.state is State.IDLE

    @rule(signals=st.sampled_from((QUIET, QUIET, BETWEEN, LOUD, BLIND)), times=st.integers(1, 12))
    def observe(self, signals, times):
        for _ in range(times):
            before = self.machine.decision.state
            decision = self.machine.observe(signals, self.now_s)
            self.loud_in_a_row = self.loud_in_a_row + 1 if signals in (LOUD, BLIND) else 0
            if before is State.RUNNING and decision.state is State.PAUSED:
                assert self.loud_in_a_row >= POLICY.pause_after_windows
            if before is State.PAUSED and decision.state is State.RUNNING:
                assert signals is QUIET
            self.after(decision)

    @precondition(lambda self: self.machine.decision.state is State.ADMITTED)
    @rule(length_s=st.floats(0.1, 30))
    def start(self, length_s):
        self.after(self.machine.start(self.now_s, self.now_s + length_s))

    @precondition(lambda self: self.machine.decision.state is not State.ADMITTED)
    @rule()
    def start_too_early(self):
        with pytest.raises(NotAdmittedError):
            self.machine.start(self.now_s, self.now_s + 1)

    @rule()
    def protect(self):
        self.protected |= self.machine.decision.state in (State.RUNNING, State.PAUSED)
        self.after(self.machine.protect(self.now_s))

    @rule()
    def hold(self):
        self.after(self.machine.hold(self.now_s))

    @rule()
    def release(self):
        self.after(self.machine.release(self.now_s))

    @rule(seconds=st.floats(0, 40))
    def tick(self, seconds):
        self.now_s += seconds
        self.after(self.machine.tick(self.now_s))

    @invariant()
    def protected_work_runs(self):
        assert not self.protected or self.machine.decision.state is State.RUNNING

    @invariant()
    def without_a_job_nothing_is_wanted(self):
        assert not self.resting or not self.machine.wanted


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
