"""Samples the device for training admission: PSI, run-queue latency, temperature and power, under a loadable root."""

from collections.abc import Callable
from pathlib import Path

from fedge_agent.admission.judgement import Signals
from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.pressure import Resource, Stall, read_pressure

_P95 = 0.95
_SLOW_EVERY_S = 5.0  # thermal and power files may wait for a bus
_US_PER_S = 1e6
Histogram = tuple[int, ...]


class SignalSampler:
    """Turns totals into one `Signals` a window.

    Args:
        root: of /proc and /sys.
        run_queue: the kernel's run-queue histogram, None while there is none.
        pressure: PSI file of a resource; /proc/pressure by default, a cgroup's own files in a container.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        run_queue: Callable[[], Histogram | None] | None = None,
        pressure: Callable[[Resource], Path] | None = None,
    ) -> None:
        self._root = root
        self._run_queue = run_queue
        self._pressure = pressure or (lambda resource: root / "proc/pressure" / resource.value)
        self._excluded: Path | None = None
        self._previous: tuple[float, dict[Resource, Stall | None], dict[Resource, Stall | None]] | None = None
        self._histogram: Histogram | None = None
        self._slow: Signals = Signals()
        self._slow_at_s = float("-inf")

    def exclude(self, worker: Path | None) -> None:
        """Leaves the worker's own waiting (the PSI files of its cgroup) out of the pressure from now on."""
        self._excluded = worker
        self.restart()

    def restart(self) -> None:
        """Forgets the last window: the next sample only sets the beginning."""
        self._previous = None
        self._histogram = None

    def sample(self, now_s: float) -> Signals | None:
        """The signals since the last call; None the first time after `restart`, which has no window."""
        system = {resource: read_pressure(self._pressure(resource)) for resource in Resource}
        own = {resource: self._own(resource) for resource in Resource}
        histogram = self._run_queue() if self._run_queue else None
        previous, self._previous = self._previous, (now_s, system, own)
        previous_histogram, self._histogram = self._histogram, histogram
        if previous is None:
            return None
        begin_s, old_system, old_own = previous
        window_s = max(now_s - begin_s, 1e-3)
        share = {r: _others(old_system[r], system[r], old_own[r], own[r], window_s) for r in Resource}
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

    def _own(self, resource: Resource) -> Stall | None:
        return read_pressure(self._excluded / f"{resource.value}.pressure") if self._excluded else None

    def _slow_signals(self, now_s: float) -> Signals:
        if now_s - self._slow_at_s >= _SLOW_EVERY_S:
            on_mains, battery_percent = _power(self._root)
            temperature_c = _temperature_c(self._root)
            self._slow = Signals(temperature_c=temperature_c, on_mains=on_mains, battery_percent=battery_percent)
            self._slow_at_s = now_s
        return self._slow


def _others(
    old_system: Stall | None, system: Stall | None, old_own: Stall | None, own: Stall | None, window_s: float
) -> float | None:
    """Share of the window in which others waited: at least the system's stall less the worker's own."""
    if old_system is None or system is None or system.some_us < old_system.some_us:
        return None
    stalled_us = system.some_us - old_system.some_us
    if old_own is not None and own is not None:
        stalled_us -= min(max(own.some_us - old_own.some_us, 0), stalled_us)
    return min(stalled_us / _US_PER_S / window_s, 1.0)


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
