"""The controller freezes and thaws a really busy worker in a real cgroup."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fedge_agent.admission.controller import AdmissionController, SystemClock
from fedge_agent.admission.machine import Decision
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.admission.signals import SignalSampler
from fedge_agent.admission.worker_control import Limits, WorkerControl, enable_controllers
from fedge_agent.kernel.cgroup import cgroup2_mount
from fedge_agent.kernel.pressure import Resource
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as State

BUSY = "while True: pass"
QUICK = AdmissionPolicy(
    window_s=0.05, consider_every_s=0.05, enter_after_s=0.2, resume_after_windows=3, allow_metered=True
)


@pytest.fixture
def busy() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(cgroup: Path | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", BUSY]
        if cgroup is not None:
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup), *command]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.send_signal(signal.SIGCONT)
        process.wait(timeout=10)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Journal:
    """Collects decisions and waits for one."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self._changed = asyncio.Event()

    def publish(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self._changed.set()

    async def wait_for(self, state: State) -> Decision:
        async with asyncio.timeout(60):
            while not self.decisions or self.decisions[-1].state is not state:
                self._changed.clear()
                await self._changed.wait()
        return self.decisions[-1]


@contextlib.asynccontextmanager
async def running(controller: AdmissionController) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class InjectedPressure:
    """PSI files that a test writes: CPU stalls for `share` of the time that passes."""

    def __init__(self, root: Path) -> None:
        self._place = root / "proc" / "pressure"
        self._place.mkdir(parents=True)
        self._total_us = 0.0
        self._at_s = time.monotonic()
        self.share = 0.0
        self.write()

    def write(self) -> None:
        now_s = time.monotonic()
        self._total_us += self.share * (now_s - self._at_s) * 1e6
        self._at_s = now_s
        for resource in Resource:
            total = int(self._total_us) if resource is Resource.CPU else 0
            text = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n"
            (self._place / resource.value).write_text(text)

    async def keep_writing(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(0.01)


async def until_frozen(control: WorkerControl, *, frozen: bool) -> None:
    async with asyncio.timeout(30):
        while control.frozen is not frozen:  # noqa: ASYNC110 - the kernel offers a file, no event
            await asyncio.sleep(0.005)


async def test_injected_pressure_freezes_a_busy_worker_and_its_end_lets_it_run_on(tmp_path, cgroup, busy):
    pressure = InjectedPressure(tmp_path)
    control = WorkerControl(cgroup)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    journal = Journal()
    controller = AdmissionController(SignalSampler(root=tmp_path), QUICK, SystemClock(), publish=journal.publish)
    writer = asyncio.create_task(pressure.keep_writing())
    async with running(controller):
        controller.seek()
        await journal.wait_for(State.ADMITTED)
        controller.start(control, time.monotonic() + 600)
        assert not control.frozen

        pressure.share = 0.9
        paused = await journal.wait_for(State.PAUSED)
        assert paused.reason is Reason.CPU_PRESSURE
        assert "CPU pressure" in paused.text
        await until_frozen(control, frozen=True)
        before = cpu_ticks(worker.pid)
        await asyncio.sleep(0.3)
        assert cpu_ticks(worker.pid) == before

        pressure.share = 0.0
        resumed = await journal.wait_for(State.RUNNING)
        assert resumed.reason is Reason.QUIET
        await until_frozen(control, frozen=False)
        async with asyncio.timeout(30):
            while cpu_ticks(worker.pid) == before:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)

        pressure.share = 0.9
        await journal.wait_for(State.PAUSED)
        controller.protect()
        await until_frozen(control, frozen=False)
        controller.finish()
    writer.cancel()
    control.kill()
    worker.wait(timeout=10)
    control.close()
    assert not (cgroup / "worker").exists()


async def test_real_load_freezes_the_worker_and_its_end_lets_it_run_on(make_cgroup, busy):
    """The pressure is the kernel's own, of a container with worker and load: other work on the machine does not decide.

    So much load starves the worker: it waits all the time, and its own waiting must not hide that of the others. A task
    freezes when it next runs; a starved one, once the load ends, long before the device counts as quiet again.
    """
    container = make_cgroup()
    unit, load = make_cgroup(container), make_cgroup(container)
    if not (load / "cpu.pressure").exists():
        pytest.skip("this kernel has no PSI for cgroups; boot with psi=1")
    control = WorkerControl(unit)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    journal = Journal()
    policy = dataclasses.replace(QUICK, resume_after_windows=100)
    controller = AdmissionController(SignalSampler(top=container), policy, SystemClock(), publish=journal.publish)
    async with running(controller):
        controller.seek()
        await journal.wait_for(State.ADMITTED)
        controller.start(control, time.monotonic() + 600)
        loaders = [busy(load) for _ in range(3 * (os.cpu_count() or 1))]
        paused = await journal.wait_for(State.PAUSED)
        assert paused.reason is Reason.CPU_PRESSURE
        await asyncio.sleep(1.0)
        assert journal.decisions[-1] is paused
        assert (unit / "worker" / "cgroup.freeze").read_text() == "1\n"
        for process in loaders:
            process.kill()
            process.wait(timeout=10)
        await until_frozen(control, frozen=True)
        before = cpu_ticks(worker.pid)
        await asyncio.sleep(0.3)
        assert cpu_ticks(worker.pid) == before
        await journal.wait_for(State.RUNNING)
        await until_frozen(control, frozen=False)
        controller.finish()
    control.kill()
    worker.wait(timeout=10)
    control.close()


async def test_a_pause_beyond_the_deadline_aborts_and_leaves_the_worker_frozen(tmp_path, cgroup, busy):
    pressure = InjectedPressure(tmp_path)
    control = WorkerControl(cgroup)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    journal = Journal()
    controller = AdmissionController(SignalSampler(root=tmp_path), QUICK, SystemClock(), publish=journal.publish)
    writer = asyncio.create_task(pressure.keep_writing())
    async with running(controller):
        controller.seek()
        await journal.wait_for(State.ADMITTED)
        controller.start(control, time.monotonic() + 0.3)
        pressure.share = 0.9
        aborted = await journal.wait_for(State.ABORTED)
        assert aborted.reason is Reason.DEADLINE
        await until_frozen(control, frozen=True)
        control.kill()
        worker.wait(timeout=10)
        controller.finish()
    writer.cancel()
    control.close()


def test_an_adopted_worker_runs_at_idle_priority_and_nice_19(cgroup, busy):
    control = WorkerControl(cgroup)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    assert os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == 19
    assert str(worker.pid) in (cgroup / "worker" / "cgroup.procs").read_text().split()
    control.kill()
    worker.wait(timeout=10)
    control.close()


@pytest.mark.parametrize("guarded", [True, False])
def test_the_cpu_time_of_a_worker_is_told_with_and_without_a_cgroup(cgroup, busy, guarded):
    control = WorkerControl(cgroup if guarded else None)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    deadline = time.monotonic() + 60
    while (control.cpu_seconds() or 0.0) < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    told, ticks = control.cpu_seconds(), cpu_ticks(worker.pid)
    assert told is not None
    assert told <= ticks / os.sysconf("SC_CLK_TCK") + 0.1
    control.kill()
    worker.wait(timeout=10)
    control.close()


def test_a_limit_whose_controller_is_missing_is_named_not_dropped(cgroup):
    if "memory" in (cgroup / "cgroup.controllers").read_text().split():
        pytest.skip("cgroup v2 has the memory controller here; this is about hybrid machines")
    control = WorkerControl(cgroup, Limits(memory_max_bytes=1 << 27, cpu_max_percent=50))
    control.prepare()
    assert [item.means for item in control.degraded] == ["memory.max", "cpu.max"]
    control.close()


def test_without_a_cgroup_signals_stop_and_continue_the_worker(busy):
    control = WorkerControl(None)
    control.prepare()
    worker = busy()
    control.adopt(worker.pid)
    control.freeze()
    assert control.degraded[0].instead == "SIGSTOP and SIGCONT"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
    control.thaw()
    while Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
        assert time.monotonic() < deadline
    control.close()


@pytest.fixture
def offered_controller() -> Iterator[str]:
    """A controller that children of the root cgroup may use, for the length of the test."""
    mount = cgroup2_mount()
    control = mount / "cgroup.subtree_control"
    enabled = control.read_text().split()
    offered = (mount / "cgroup.controllers").read_text().split()
    if not offered:
        pytest.skip(f"no controller in {mount}; boot with systemd.unified_cgroup_hierarchy=1")
    if enabled:
        yield enabled[0]
        return
    control.write_text(f"+{offered[0]}")
    try:
        yield offered[0]
    finally:
        control.write_text(f"-{offered[0]}")


MOVE = """
import sys
from pathlib import Path
from fedge_agent.admission.worker_control import enable_controllers
unit = Path(sys.argv[1])
enabled = enable_controllers(unit, [sys.argv[2]])
print(sorted(enabled), Path("/proc/self/cgroup").read_text().split("0::")[1].split("/")[-1])
"""


def test_a_daemon_in_the_way_of_its_controllers_moves_to_a_child_cgroup(offered_controller, make_cgroup):
    unit = make_cgroup()
    command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(unit), sys.executable, "-c", MOVE]
    done = subprocess.run([*command, str(unit), offered_controller], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [f"['{offered_controller}']", "agent"]
    assert enable_controllers(unit, [offered_controller]) == {offered_controller}
    (unit / "agent").rmdir()
