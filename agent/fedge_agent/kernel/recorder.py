"""Keeps the device's features: a window every ten seconds into the ring, refusals into the log."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.features import WINDOW_S, FeatureVector
from fedge_agent.kernel.reader import DenialStream
from fedge_agent.kernel.records import Denial
from fedge_agent.kernel.telemetry import Telemetry
from fedge_agent.kernel.telemetry_ring import TelemetryRing

_log = logging.getLogger(__name__)


class TelemetryRecorder:
    """Works in the daemon's event loop until it is closed; what fails is told once and does not stop the daemon.

    Args:
        path: of the ring; None: windows are taken, not kept.
    """

    def __init__(self, telemetry: Telemetry, path: Path | None, max_bytes: int, *, window_s: float = WINDOW_S) -> None:
        self._telemetry = telemetry
        self._window_s = window_s
        self._ring = _open_ring(path, max_bytes)
        self._denials: DenialStream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self.newest: FeatureVector | None = None

    def start(self, pin_dir: Path) -> None:
        """Takes a window every `window_s` from now on, and refusals as they come."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(KernelLayerError):  # no programs, or not ours to read: the counters' absence says so
            self._denials = DenialStream(pin_dir)
            loop.add_reader(self._denials.fileno(), self._told)
        self._plan(loop, loop.time())

    def close(self) -> None:
        """Stops, and syncs the ring."""
        if self._timer is not None:
            self._timer.cancel()
        if self._denials is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                asyncio.get_running_loop().remove_reader(self._denials.fileno())
            self._denials.close()
            self._denials = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def record(self, *, at_once: bool = True) -> FeatureVector:
        """Takes one window now and keeps it; it is on the disk when this returns, unless not `at_once`."""
        self.newest = self._telemetry.window()
        if self._ring is not None:
            try:
                self._ring.append(self.newest, time.time_ns() // 1_000_000)
                if at_once:
                    self._ring.flush()
                self._failed = False
            except OSError as error:
                if not self._failed:
                    _log.warning("telemetry cannot be kept: %s", error)
                self._failed = True
        return self.newest

    def _plan(self, loop: asyncio.AbstractEventLoop, since_s: float) -> None:
        due_s = since_s + self._window_s

        def run() -> None:
            self.record(at_once=False)
            self._plan(loop, max(due_s, loop.time() - self._window_s))

        self._timer = loop.call_at(due_s, run)

    def _told(self) -> None:
        if self._denials is not None:
            for denial in self._denials.take():
                _log.warning("%s", describe(denial))


def describe(denial: Denial) -> str:
    """One line for the log."""
    protocol = {6: "tcp", 17: "udp"}.get(denial.protocol, f"protocol {denial.protocol}")
    what = "would be refused" if denial.audited else "refused"
    before = f"; {denial.suppressed} more before it were counted only" if denial.suppressed else ""
    reason = denial.reason.name.lower().replace("_", " ")
    hook = denial.hook.name.lower()
    return f"{what} ({reason}) at {hook}: {protocol} to {denial.address} port {denial.port}{before}"


def _open_ring(path: Path | None, max_bytes: int) -> TelemetryRing | None:
    if path is None or not max_bytes:
        return None
    try:
        return TelemetryRing(path, max_bytes)
    except (OSError, ValueError) as error:
        _log.warning("telemetry is not kept in %s: %s", path, error)
        return None
