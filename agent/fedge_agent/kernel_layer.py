"""The kernel layer as the daemon uses it: read without capabilities, proven at start, missing parts named."""

import asyncio
import contextlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from fedge_agent.config import KernelTable
from fedge_agent.kernel.cgroup import unit_cgroup
from fedge_agent.kernel.doctor import refusals
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.features import FeatureVector
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.recorder import TelemetryRecorder
from fedge_agent.kernel.selftest import run_selftest
from fedge_agent.kernel.telemetry import Telemetry

_log = logging.getLogger(__name__)
_MIB = 1024 * 1024


class AdmissionRequiredError(Exception):
    """`kernel.network = "require"`, but the self-test found network admission not enforced. Run `fedge-bpf attach`."""


@dataclass(frozen=True)
class NetworkAdmission:
    """Whether the kernel enforces the agent's allow-list, and how that is known.

    Attributes:
        enforced: forbidden peers are refused.
        detail: one line.
        guarded: programs watch this agent's network, be it that they only look on (audit).
    """

    enforced: bool
    detail: str
    guarded: bool = False


class KernelLayer:
    """Maps and features of one agent; with nothing attached everything falls back to /proc.

    Made inside a running event loop, it also keeps a window of features every ten seconds until `close`.
    """

    def __init__(self, settings: KernelTable) -> None:
        self._pin_dir = Path(settings.pin_dir)
        self._reader = MapReader(self._pin_dir)
        self.network = self._prove(settings)
        self.cgroup = Path(settings.cgroup) if settings.cgroup is not None else _unit_cgroup()
        self._telemetry = Telemetry(self._pin_dir)
        ring = None if settings.telemetry_file is None else Path(settings.telemetry_file)
        self._recorder = TelemetryRecorder(self._telemetry, ring, settings.telemetry_mib * _MIB)
        with contextlib.suppress(RuntimeError):  # no loop runs: a command reads once and goes
            asyncio.get_running_loop()
            self._recorder.start(self._pin_dir)

    def run_queue(self) -> tuple[int, ...] | None:
        """The run-queue histogram, None where the kernel gives none."""
        try:
            return self._reader.run_queue()
        except KernelLayerError:
            return None

    def switch_probes(self, on: bool) -> None:  # noqa: FBT001 - the controller's callback
        """Turn the scheduler probes on or off, where they are."""
        try:
            self._reader.switch_scheduler_probes(on=on)
        except KernelLayerError as error:
            _log.debug("scheduler probes: %s", error)

    def missing_features(self) -> int:
        """Bit mask of the features that this device cannot measure now, lowest bit first in the order of FEATURES."""
        values = self._telemetry.window().values
        return sum(1 << index for index, value in enumerate(values) if math.isnan(value))

    def counters(self) -> dict[str, int]:
        """Totals of the admission programs by name; empty where none are attached."""
        try:
            return {counter.name.lower(): value for counter, value in self._reader.network().items()}
        except KernelLayerError:
            return {}

    def record(self) -> FeatureVector:
        """Take a window now, beside those of every ten seconds, and keep it."""
        return self._recorder.record()

    def close(self) -> None:
        """Give the descriptors back."""
        self._recorder.close()
        self._telemetry.close()
        self._reader.close()

    def _prove(self, settings: KernelTable) -> NetworkAdmission:
        if settings.network == "off":
            return NetworkAdmission(enforced=False, detail='kernel.network = "off"')
        count = None if self._reader.unreadable("fedge_count") else lambda: refusals(self._reader)
        result = run_selftest(count)
        if settings.network == "audit":
            detail = f"audit mode, nothing is refused ({result.detail})"
            return NetworkAdmission(enforced=False, detail=detail, guarded=bool(result.counted))
        if not result.enforced and settings.network == "require":
            raise AdmissionRequiredError(
                f'kernel.network = "require", but forbidden peers are not refused ({result.detail}); '
                "run fedge-bpf attach, or set kernel.network to prefer"
            )
        return NetworkAdmission(result.enforced, result.detail, guarded=result.enforced)


def _unit_cgroup() -> Path | None:
    try:
        return unit_cgroup()
    except KernelLayerError as error:
        _log.info("no cgroup of its own, the worker is paused by signals: %s", error)
        return None
