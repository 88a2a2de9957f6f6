"""Samples the device for training admission: PSI, run-queue latency, temperature and power, under a loadable root."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fedge_agent.admission.judgement import Signals
from fedge_agent.kernel.cgroup import cgroup2_mount
from fedge_agent.kernel.errors import CgroupError
from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.pressure import Resource, Stall, read_pressure

_P95 = 0.95
_SLOW_EVERY_S = 5.0  # thermal and power files may wait for a bus
_US_PER_S = 1e6
_MOST_BYSTANDERS = 32
Histogram = tuple[int, ...]
Stalls = dict[Resource, Stall | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """The PSI totals at one time: of the device, of the worker if any, and of each cgroup beside it."""

    at_s: float
    system: Stalls
    own: Stalls | None
    beside: tuple[Stalls, ...]


class SignalSampler:
    """Turns totals into one `Signals` a window.

    A worker in SCHED_IDLE waits for as long as anybody else is busy, so the system's stall less its own says nothing on
    a full machine. The other cgroups beside the worker's are asked too; the highest of all these lower bounds counts.

    Args:
        root: of /proc and /sys.
        run_queue: the kernel's run-queue histogram, None while there is none.
        top: the cgroup that is the whole device, as in a container; by default /proc/pressure and the root cgroup.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        run_queue: Callable[[], Histogram | None] | None = None,
        top: Path | None = None,
    ) -> None:
        self._root = root
        self._run_queue = run_queue
        self._top = top
        self._excluded: Path | None = None
        self._bystanders: tuple[Path, ...] = ()
        self._previous: _Reading | None = None
        self._histogram: Histogram | None = None
        self._slow: Signals = Signals()
        self._slow_at_s = float("-inf")

    def exclude(self, worker: Path | None) -> None:
        """Leaves the worker's own waiting (the PSI files of its cgroup) out of the pressure from now on."""
        self._excluded = worker
        self._bystanders = self._beside(worker) if worker is not None else ()
        self.restart()

    def restart(self) -> None:
        """Forgets the last window: the next sample only sets the beginning."""
        self._previous = None
        self._histogram = None

    def sample(self, now_s: float) -> Signals | None:
        """The signals since the last call; None the first time after `restart`, which has no window."""
        reading = _Reading(
            at_s=now_s,
            system=self._system(),
            own=_stalls(self._excluded) if self._excluded else None,
            beside=tuple(_stalls(cgroup) for cgroup in self._bystanders),
        )
        histogram = self._run_queue() if self._run_queue else None
        previous, self._previous = self._previous, reading
        previous_histogram, self._histogram = self._histogram, histogram
        if previous is None:
            return None
        share = {resource: _others(previous, reading, resource) for resource in Resource}
        p95_us = None
        if histogram is not None and previous_histogram is not None:
            p95_us = percentile_us(difference(histogram, previous_histogram), _P95)
        slow = self._slow_signals(now_s)
        return Signals(
            run_queue_p95_us=p95_us,
            cpu_some=share[Resource.CPU],
            memory_some=share[Resource.MEMORY],
            io_some=share[Resource.IO],
            temperature_c=slow.temperature_c,
            on_mains=slow.on_mains,
            battery_percent=slow.battery_percent,
        )

    def _system(self) -> Stalls:
        if self._top is not None:
            return _stalls(self._top)
        return {resource: read_pressure(self._root / "proc/pressure" / resource.value) for resource in Resource}

    def _beside(self, worker: Path) -> tuple[Path, ...]:
        """The cgroups right below the top that do not hold the worker, and have PSI files."""
        try:
            top = self._top or cgroup2_mount(self._root)
            ours = worker.relative_to(top).parts[0]
            found = sorted(path for path in top.iterdir() if path.name != ours and (path / "cpu.pressure").exists())
        except (OSError, ValueError, CgroupError):
            return ()
        return tuple(found[:_MOST_BYSTANDERS])

    def _slow_signals(self, now_s: float) -> Signals:
        if now_s - self._slow_at_s >= _SLOW_EVERY_S:
            on_mains, battery_percent = _power(self._root)
            temperature_c = _temperature_c(self._root)
            self._slow = Signals(temperature_c=temperature_c, on_mains=on_mains, battery_percent=battery_percent)
            self._slow_at_s = now_s
        return self._slow


def _stalls(cgroup: Path) -> Stalls:
    return {resource: read_pressure(cgroup / f"{resource.value}.pressure") for resource in Resource}


def _others(old: _Reading, new: _Reading, resource: Resource) -> float | None:
    """Share of the window in which others waited, as a lower bound: the system less the worker, or a bystander."""
    system_us = _stalled_us(old.system, new.system, resource)
    if system_us is not None and old.own is not None and new.own is not None:
        system_us = max(system_us - (_stalled_us(old.own, new.own, resource) or 0), 0)
    stalled_us = [system_us]
    stalled_us += [_stalled_us(before, after, resource) for before, after in zip(old.beside, new.beside, strict=True)]
    known_us = [stall for stall in stalled_us if stall is not None]
    if not known_us:
        return None
    window_s = max(new.at_s - old.at_s, 1e-3)
    return min(max(known_us) / _US_PER_S / window_s, 1.0)


def _stalled_us(old: Stalls, new: Stalls, resource: Resource) -> int | None:
    before, after = old[resource], new[resource]
    if before is None or after is None or after.some_us < before.some_us:
        return None
    return after.some_us - before.some_us


def _temperature_c(root: Path) -> float | None:
    """The hottest thermal zone."""
    found = [_number(path) for path in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    return max((value / 1000 for value in found if value is not None), default=None)


def _power(root: Path) -> tuple[bool | None, float | None]:
    """Whether any mains supply is on line (None: there is none to ask), and the emptiest battery's charge."""
    mains: list[bool] = []
    charges: list[float] = []
    for supply in (root / "sys/class/power_supply").glob("*"):
        kind = _word(supply / "type")
        if kind in ("Mains", "USB"):
            mains.append(_number(supply / "online") == 1)
        elif kind == "Battery" and _word(supply / "scope") != "Device":  # a mouse's battery is not ours
            charge = _number(supply / "capacity")
            if charge is not None:
                charges.append(charge)
            if _word(supply / "status") in ("Charging", "Full"):
                mains.append(True)
    battery = min(charges, default=None)
    return (any(mains) if mains or charges else None), battery


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_word(path))
    except ValueError:
        return None
