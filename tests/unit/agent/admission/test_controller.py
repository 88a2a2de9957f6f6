"""The controller with a clock that a test turns."""

import asyncio
import contextlib
import dataclasses

import pytest

from fedge_agent.admission.controller import AdmissionController
from fedge_agent.admission.judgement import Signals
from fedge_agent.admission.machine import Decision, NotAdmittedError
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as State

POLICY = AdmissionPolicy(allow_metered=True)  # whatever link the machine has
QUIET, LOUD = Signals(cpu_some=0.0), Signals(cpu_some=0.9)


class TurnedClock:
    def __init__(self):
        self.now_s = 0.0
        self.slept = []
        self._turn = asyncio.Event()
        self.waiting = asyncio.Event()

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, delay_s):
        self.waiting.set()
        await self._turn.wait()
        self._turn.clear()
        self.slept.append(delay_s)
        self.now_s += delay_s

    async def turn(self, times=1):
        for _ in range(times):
            await self.waiting.wait()
            self.waiting.clear()
            self._turn.set()
            for _ in range(5):
                await asyncio.sleep(0)


class GivenSignals:
    def __init__(self):
        self.present = QUIET
        self.excluded = []

    def sample(self, now_s):
        return self.present

    def exclude(self, worker):
        self.excluded.append(worker)

    def restart(self):
        pass


class Worker:
    def __init__(self, place):
        self.pressure_dir = place
        self.calls = []

    def freeze(self):
        self.calls.append("freeze")

    def thaw(self):
        self.calls.append("thaw")


class Bench:
    def __init__(self, tmp_path, policy=POLICY):
        self.clock, self.signals, self.worker = TurnedClock(), GivenSignals(), Worker(tmp_path)
        self.decisions: list[Decision] = []
        self.probes: list[bool] = []
        self.controller = AdmissionController(
            self.signals, policy, self.clock, publish=self.decisions.append, probes=self.probes.append
        )

    async def admit(self):
        self.controller.seek()
        await self.clock.turn(3)
        assert self.controller.decision.state is State.ADMITTED


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    task = asyncio.create_task(made.controller.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_without_a_job_nothing_is_sampled_and_no_timer_runs(bench):
    for _ in range(10):
        await asyncio.sleep(0)
    assert not bench.clock.waiting.is_set()
    assert bench.probes == []


async def test_windows_are_long_while_considering_and_short_while_running(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    await bench.clock.turn(2)
    assert bench.clock.slept == [POLICY.consider_every_s] * 3 + [POLICY.window_s] * 2


async def test_the_scheduler_probes_count_from_seek_to_finish(bench):
    await bench.admit()
    assert bench.probes == [True]
    bench.controller.finish()
    assert bench.probes == [True, False]


async def test_load_freezes_the_worker_and_quiet_thaws_it_and_each_change_is_published_once(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    assert bench.signals.excluded == [bench.worker.pressure_dir]
    bench.signals.present = LOUD
    await bench.clock.turn(5)
    assert bench.worker.calls == ["freeze"]
    bench.signals.present = QUIET
    await bench.clock.turn(POLICY.resume_after_windows)
    assert bench.worker.calls == ["freeze", "thaw"]
    states = [decision.state for decision in bench.decisions]
    assert states == [State.IDLE, State.ADMITTED, State.RUNNING, State.PAUSED, State.RUNNING]


async def test_a_window_that_was_too_much_is_followed_by_a_short_one_and_a_pause_by_long_ones(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    await bench.clock.turn(2)
    bench.signals.present = LOUD
    await bench.clock.turn(4)
    assert bench.controller.decision.state is State.PAUSED
    long_s, short_s = POLICY.window_s, POLICY.window_s / 2
    assert bench.clock.slept[-5:] == [long_s, long_s, short_s, long_s, long_s]


async def test_a_protected_worker_is_thawed_at_once_and_not_frozen_again(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    bench.signals.present = LOUD
    await bench.clock.turn(2)
    bench.controller.protect()
    await bench.clock.turn(20)
    assert bench.worker.calls == ["freeze", "thaw"]


async def test_the_owners_pause_freezes_at_once(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    assert bench.controller.freeze().reason is Reason.OWNER
    assert bench.worker.calls == ["freeze"]
    bench.controller.thaw()
    await bench.clock.turn(POLICY.resume_after_windows)
    assert bench.worker.calls == ["freeze", "thaw"]


async def test_finishing_a_paused_round_lets_nothing_frozen_behind(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    bench.controller.freeze()
    bench.controller.finish()
    assert bench.worker.calls == ["freeze", "thaw"]
    assert bench.signals.excluded[-1] is None


async def test_a_second_job_is_admitted_after_an_aborted_one(bench):
    await bench.admit()
    bench.controller.start(bench.worker, 3.1)
    bench.signals.present = LOUD
    await bench.clock.turn(3)
    assert bench.decisions[-1].state is State.ABORTED
    assert bench.worker.calls == ["freeze"]
    bench.controller.finish()
    bench.signals.present = QUIET
    bench.controller.seek()
    await bench.clock.turn(4)
    assert [decision.state for decision in bench.decisions][-1] is State.ADMITTED


async def test_the_owners_rounds_of_a_day_keep_the_next_job_waiting_with_the_reason(tmp_path):
    policy = dataclasses.replace(POLICY, rounds_a_day=1)
    bench = Bench(tmp_path, policy)
    task = asyncio.create_task(bench.controller.run())
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    await bench.clock.turn(40)
    assert bench.decisions[-1].state is State.RUNNING
    bench.controller.finish()
    bench.controller.seek()
    await bench.clock.turn(6)
    waiting = bench.decisions[-1]
    assert (waiting.state, waiting.reason) == (State.IDLE, Reason.ROUNDS_BUDGET)
    assert "1 of 1 rounds of today are used" in waiting.text
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_worker_is_not_taken_before_admission(bench):
    with pytest.raises(NotAdmittedError):
        bench.controller.start(bench.worker, 10.0)
    assert bench.signals.excluded == []


async def test_a_controller_that_is_stopped_thaws_its_worker(tmp_path):
    bench = Bench(tmp_path)
    task = asyncio.create_task(bench.controller.run())
    await bench.admit()
    bench.controller.start(bench.worker, 1000.0)
    bench.controller.freeze()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert bench.worker.calls == ["freeze", "thaw"]
    assert bench.probes[-1] is False
