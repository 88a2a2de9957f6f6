"""Holds the training worker in a child cgroup: idle priority, limits, freeze and thaw.

Where a means is missing, a weaker one serves and the reason is kept in `degraded`; nothing is silently left out.
"""

import contextlib
import dataclasses
import errno
import os
import signal
from collections.abc import Iterable
from pathlib import Path

_LEAST_NICE = 19  # the run-queue probe leaves nice-19 tasks out: they wait by design
_PERIOD_US = 100_000
_US_PER_S = 1e6
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CONTROLLERS = ("cpu", "memory")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the worker may use at most; None leaves it to the unit's own limits."""

    memory_max_bytes: int | None = None
    cpu_max_percent: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Degradation:
    """A means that is missing here, and what serves instead."""

    means: str
    reason: str
    instead: str


def enable_controllers(unit: Path, wanted: Iterable[str] = CONTROLLERS) -> frozenset[str]:
    """Enables the controllers that the unit's cgroup has for its children, and returns those that are enabled.

    A cgroup that holds processes cannot do so; if this process is the one in the way, it moves to the child `agent`.

    Raises:
        OSError: the cgroup is not ours to change.
    """
    available = set((unit / "cgroup.controllers").read_text(encoding="ascii").split())
    control = unit / "cgroup.subtree_control"
    asked = " ".join(f"+{name}" for name in wanted if name in available)
    if asked:
        try:
            control.write_text(asked, encoding="ascii")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            own = unit / "agent"
            own.mkdir(exist_ok=True)
            (own / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            control.write_text(asked, encoding="ascii")
    return frozenset(control.read_text(encoding="ascii").split())


class WorkerControl:
    """The worker's cgroup and what can be done to it.

    Args:
        unit: the agent's cgroup v2 directory (delegated by systemd); None where there is none: signals serve instead.
    """

    def __init__(self, unit: Path | None, limits: Limits = Limits(), *, name: str = "worker") -> None:
        self._unit = unit
        self._limits = limits
        self._pidfds: dict[int, int] = {}
        self._stopped = False
        self.cgroup: Path | None = None
        self.degraded: tuple[Degradation, ...] = ()
        self._name = name

    def prepare(self) -> None:
        """Makes the cgroup and sets its limits. Never raises for a means that is missing; see `degraded`."""
        instead = "SIGSTOP and SIGCONT"
        if self._unit is None:
            self._degrade("cgroup.freeze", "no cgroup v2 was given", instead)
            return
        enabled: frozenset[str] = frozenset()
        try:
            enabled = enable_controllers(self._unit)
        except OSError as error:
            self._degrade("controllers", f"{self._unit}: {error.strerror}", "the unit's own limits")
        path = self._unit / self._name
        try:
            path.mkdir(exist_ok=True)
            (path / "cgroup.freeze").write_text("0", encoding="ascii")
        except OSError as error:
            self._degrade("cgroup.freeze", f"{path}: {error.strerror}", instead)
            return
        self.cgroup = path
        if "cpu" in enabled:
            self._stand_back(path)
        percent, memory = self._limits.cpu_max_percent, self._limits.memory_max_bytes
        if memory is not None:
            self._limit("memory.max", str(memory), enabled="memory" in enabled)
        if percent is not None:
            self._limit("cpu.max", f"{percent * _PERIOD_US // 100} {_PERIOD_US}", enabled="cpu" in enabled)

    def _stand_back(self, path: Path) -> None:
        """Ranks the whole cgroup behind the daemon's: SCHED_IDLE counts only among the tasks of one cgroup.

        The unit's slice ranks both behind the rest of the device (`CPUWeight=` of fedge.slice).
        """
        try:
            (path / "cpu.idle").write_text("1", encoding="ascii")  # kernel 5.15 and later
        except OSError as error:
            self._degrade("cpu.idle", str(error.strerror), "cpu.weight 1")
            self._limit("cpu.weight", "1", enabled=True)

    def adopt(self, pid: int) -> None:
        """Takes the worker in, before it does any work, at idle priority.

        Raises:
            ProcessLookupError: it has ended already.
        """
        self._pidfds[pid] = os.pidfd_open(pid)
        if self.cgroup is not None:
            try:
                (self.cgroup / "cgroup.procs").write_text(str(pid), encoding="ascii")
            except OSError as error:
                self._degrade(
                    "cgroup.freeze", f"cannot move {pid} to {self.cgroup}: {error.strerror}", "SIGSTOP and SIGCONT"
                )
                self.cgroup = None
        for thread in [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]:
            try:
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, _LEAST_NICE)
            except OSError as error:
                self._degrade("SCHED_IDLE", str(error.strerror), "the scheduler's default")

    def freeze(self) -> None:
        """Stops the worker with all its threads and children, within milliseconds."""
        if self.cgroup is not None:
            (self.cgroup / "cgroup.freeze").write_text("1", encoding="ascii")
        else:
            self._signal(signal.SIGSTOP)
        self._stopped = True

    def thaw(self) -> None:
        """Lets it go on."""
        if self.cgroup is not None:
            (self.cgroup / "cgroup.freeze").write_text("0", encoding="ascii")
        else:
            self._signal(signal.SIGCONT)
        self._stopped = False

    @property
    def frozen(self) -> bool:
        """Whether the kernel has stopped it (asked and done, where it tells)."""
        if self.cgroup is None:
            return self._stopped
        return "frozen 1" in (self.cgroup / "cgroup.events").read_text(encoding="ascii").splitlines()

    @property
    def pressure_dir(self) -> Path | None:
        """Where the worker's own PSI files are, if anywhere."""
        return self.cgroup if self.cgroup is not None and (self.cgroup / "cpu.pressure").exists() else None

    def cpu_seconds(self) -> float | None:
        """CPU time of the worker and what it started; None where it cannot be told (any more)."""
        try:
            if self.cgroup is not None:
                lines = (self.cgroup / "cpu.stat").read_text(encoding="ascii").splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / _US_PER_S
            return sum(_process_seconds(pid) for pid in self._pidfds)
        except (OSError, ValueError, StopIteration):
            return None

    def kill(self) -> None:
        """Ends the worker and everything it started."""
        if self.cgroup is not None and (self.cgroup / "cgroup.kill").exists():
            (self.cgroup / "cgroup.kill").write_text("1", encoding="ascii")
        else:
            self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Gives the descriptors back and removes the cgroup, once its processes have been waited for.

        Raises:
            OSError: EBUSY, processes are still in it.
        """
        for descriptor in self._pidfds.values():
            os.close(descriptor)
        self._pidfds.clear()
        if self.cgroup is not None:
            self.cgroup.rmdir()
            self.cgroup = None

    def _limit(self, name: str, value: str, *, enabled: bool) -> None:
        if self.cgroup is None or not enabled:
            self._degrade(name, "the controller is not in this cgroup v2", "the unit's own limits")
            return
        try:
            (self.cgroup / name).write_text(value, encoding="ascii")
        except OSError as error:
            self._degrade(name, str(error.strerror), "the unit's own limits")

    def _signal(self, number: signal.Signals) -> None:
        for descriptor in self._pidfds.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)

    def _degrade(self, means: str, reason: str, instead: str) -> None:
        item = Degradation(means, reason, instead)
        if item not in self.degraded:
            self.degraded = (*self.degraded, item)


def _process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:13]) / _TICKS_PER_S  # utime and stime: proc(5)
