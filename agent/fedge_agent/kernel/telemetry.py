"""Samples the device: kernel maps where they are, /proc where not."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedge_agent.kernel import substitutes
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.features import FeatureVector, Sample, features_between
from fedge_agent.kernel.pressure import Resource, read_pressure
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import MachineCounter

Value = TypeVar("Value")
_COUNTED_BY = {
    MachineCounter.EXEC: "fedge_exec",
    MachineCounter.RETRANSMITS: "fedge_retrans",
    MachineCounter.RECLAIMS: "fedge_reclaim",
    MachineCounter.OOM_KILLS: "fedge_oom",
}


class Telemetry:
    """The device's feature vector; each call of `window` gives the features since the previous one."""

    def __init__(
        self,
        pin_dir: Path,
        *,
        root: Path = Path("/"),
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        own_srtt_us: Callable[[], float | None] = substitutes.own_srtt_us,
    ) -> None:
        self._reader = MapReader(pin_dir)
        self._pin_dir = pin_dir
        self._root = root
        self._monotonic_ns = monotonic_ns
        self._own_srtt_us = own_srtt_us
        self._previous = self._sample()

    def close(self) -> None:
        """Gives the map descriptors back."""
        self._reader.close()

    def window(self) -> FeatureVector:
        """The features since construction or the previous call."""
        before, now = self._previous, self._sample(self._previous.waits)
        self._previous = now
        return features_between(before, now)

    def _sample(self, known: substitutes.Waits | None = None) -> Sample:
        # A map alone would read as zero where its program was left out, so the links are looked for as well.
        machine = self._machine()
        probes = self._attached("fedge_wakeup", "fedge_wake_new", "fedge_switch")
        counting = probes and bool(_or_none(self._reader.scheduler_probes_on))
        run_queue = _or_none(self._reader.run_queue) if counting else None
        block = _or_none(self._reader.block) if self._attached("fedge_blk_issue", "fedge_blk_done") else None
        network = _or_none(self._reader.network) if self._attached("fedge_egress", "fedge_ingress") else None
        peers = _or_none(self._reader.peers) if self._attached("fedge_peer") else None
        # Looking at every process costs milliseconds; while the probes merely rest, the machine's own sum will do.
        queue = substitutes.machine_queue(self._root) if probes and not counting else None
        return Sample(
            stamp_ns=self._monotonic_ns(),
            network=network,
            machine=machine,
            srtt=_or_none(self._reader.srtt) if self._attached("fedge_sockops") else None,
            run_queue=run_queue,
            block=block,
            traffic=substitutes.traffic(self._root) if network is None else None,
            opened=substitutes.tcp("ActiveOpens", self._root) if network is None else None,
            refused=substitutes.tcp("AttemptFails", self._root) if network is None else None,
            peers=peers,
            connected=substitutes.peers(self._root) if peers is None else None,
            own_srtt_us=self._own_srtt_us(),
            proc=self._proc(machine),
            queue=queue,
            waits=substitutes.run_queue(self._root, known) if run_queue is None and queue is None else None,
            disks=substitutes.block_io(self._root) if block is None else None,
            pressure={r: read_pressure(self._root / "proc/pressure" / r.value) for r in Resource},
        )

    def _machine(self) -> dict[MachineCounter, int]:
        wanted = [counter for counter, program in _COUNTED_BY.items() if self._attached(program)]
        totals = _or_none(self._reader.machine) if wanted else None
        return {} if totals is None else {counter: totals[counter] for counter in wanted}

    def _proc(self, machine: dict[MachineCounter, int]) -> dict[MachineCounter, int | None]:
        found: dict[MachineCounter, int | None] = {}
        if MachineCounter.EXEC not in machine:
            found[MachineCounter.EXEC] = substitutes.forks(self._root)
        if MachineCounter.RETRANSMITS not in machine:
            found[MachineCounter.RETRANSMITS] = substitutes.tcp("RetransSegs", self._root)
        if MachineCounter.RECLAIMS not in machine or MachineCounter.OOM_KILLS not in machine:
            reclaims, kills = substitutes.memory_events(self._root)
            found |= {MachineCounter.RECLAIMS: reclaims, MachineCounter.OOM_KILLS: kills}
        return found

    def _attached(self, *programs: str) -> bool:
        """Whether all their links are pinned where we may look."""
        try:
            return all((self._pin_dir / name).exists() for name in programs)
        except OSError:
            return False


def _or_none(read: Callable[[], Value]) -> Value | None:
    with contextlib.suppress(KernelLayerError):
        return read()
    return None
