"""What the owner of the device allows, whatever the load: hours, disk space, link, and budgets of a day."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedge_agent.admission.default_link import default_routes
from fedge_agent.admission.judgement import Judgement
from fedge_agent.admission.ledger import Ledger
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.kernel.budget_file import today
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.link import Route
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter
from fedge_protocol.conditions import ConditionReason as Reason

_HOUR_MIN = 60
_MIB = 1024 * 1024
_LOOK_EVERY_S = 5.0
_SAVE_EVERY_S = 30.0
Found = tuple[Reason, str]


@runtime_checkable
class CpuMetered(Protocol):
    """A worker whose CPU time can be told; see `WorkerControl`."""

    def cpu_seconds(self) -> float | None:
        """CPU time used so far; None where it cannot be told."""


class OwnerWatch:
    """Judges the owner's limits and counts what training uses.

    Args:
        routes: the default routes now, the preferred one first; None when nobody can tell.
        wall_s: Unix time.
        traffic_bytes: the agent's bytes, both ways, since some moment; None where they are not counted.
        free_bytes: of the disk that holds the agent's state; None where nobody knows.
    """

    def __init__(
        self,
        policy: AdmissionPolicy,
        routes: Callable[[], tuple[Route, ...] | None],
        *,
        wall_s: Callable[[], float] = time.time,
        traffic_bytes: Callable[[], int | None],
        free_bytes: Callable[[], int | None],
    ) -> None:
        self._policy = policy
        self._routes = routes
        self._wall_s = wall_s
        self._traffic_bytes = traffic_bytes
        self._free_bytes = free_bytes
        place = policy.places.state_dir
        self._ledger = Ledger(None if place is None else place / "owner-ledger.json", self._day())
        self._worker: CpuMetered | None = None
        self._cpu_s = 0.0
        self._traffic: int | None = None
        self._traffic_day = self._day()
        self._running = False
        self._looked_at_s = self._saved_at_s = float("-inf")
        self._judgement = Judgement(None, None)

    @classmethod
    def of_device(cls, policy: AdmissionPolicy) -> "OwnerWatch":
        """The watch of this device: its own disk, link and kernel counters."""
        state_dir, pin_dir = policy.places.state_dir, policy.places.pin_dir
        return cls(
            policy,
            default_routes,
            traffic_bytes=_AgentTraffic(pin_dir) if pin_dir is not None else lambda: None,
            free_bytes=lambda: None if state_dir is None else _free_bytes(state_dir),
        )

    def look(self, now_s: float) -> Judgement:
        """The owner's judgement at `now_s` of the controller's clock; most of it is looked at every five seconds."""
        if now_s - self._looked_at_s >= _LOOK_EVERY_S:
            self._looked_at_s = now_s
            self._count()
            self._judgement = self._judge()
            if now_s - self._saved_at_s >= _SAVE_EVERY_S:
                self._saved_at_s = now_s
                self._ledger.save()
        return self._judgement

    def forget(self) -> None:
        """The next look is a fresh one: a job begins to be considered."""
        self._looked_at_s = float("-inf")

    def begin(self, worker: object) -> None:
        """A round begins to train."""
        self._count()
        self._running = True
        self._worker = worker if isinstance(worker, CpuMetered) else None
        self._cpu_s = (self._worker.cpu_seconds() or 0.0) if self._worker is not None else 0.0
        self._ledger.add(self._day(), rounds=1)
        self._ledger.save()

    def end(self) -> None:
        """The round is over; what it used is saved."""
        self._count()
        self._running = False
        self._worker = None
        self._ledger.save()

    def _day(self) -> int:
        return today(self._wall_s())

    def _count(self) -> None:
        cpu_s = self._worker.cpu_seconds() if self._worker is not None else None
        traffic = self._traffic_bytes() if self._policy.mib_a_day else None
        used_s = max(cpu_s - self._cpu_s, 0.0) if cpu_s is not None else 0.0
        moved = 0
        if traffic is not None:
            # Counted from the first look of a day on, for what moved between two days is of neither; a total that went
            # back was begun anew by a new attachment.
            before = traffic if self._traffic is None or self._day() != self._traffic_day else self._traffic
            moved = traffic - before if traffic >= before else traffic
        self._traffic_day = self._day()
        self._cpu_s = cpu_s if cpu_s is not None else self._cpu_s
        self._traffic = traffic
        if used_s or moved:
            self._ledger.add(self._day(), cpu_s=used_s, traffic_bytes=moved)

    def _judge(self) -> Judgement:
        over = self._hours() or self._disk(self._policy.disk_free_mib.low) or self._budgets()
        unquiet = over or self._disk(self._policy.disk_free_mib.high) or self._rounds()
        link_over, link_unquiet = self._links()
        over = over or link_over
        return Judgement(over, unquiet or link_over or link_unquiet)

    def _hours(self) -> Found | None:
        local = time.localtime(self._wall_s())
        minute = local.tm_hour * _HOUR_MIN + local.tm_min
        for hours in self._policy.quiet_hours:
            if hours.holds(minute):
                return Reason.QUIET_HOURS, f"{local.tm_hour:02}:{local.tm_min:02} is in the owner's quiet hours {hours}"
        return None

    def _disk(self, least_mib: float) -> Found | None:
        free = self._free_bytes()
        if free is None or free >= least_mib * _MIB:
            return None
        return Reason.DISK, f"{free / _MIB:.0f} MiB of disk are free, under {least_mib:g} MiB"

    def _budgets(self) -> Found | None:
        policy, used = self._policy, self._ledger.used(self._day())
        if policy.cpu_seconds_a_day and used.cpu_s >= policy.cpu_seconds_a_day:
            return Reason.CPU_BUDGET, f"{used.cpu_s:.0f} of {policy.cpu_seconds_a_day} CPU-seconds of today are used"
        if policy.mib_a_day and self._traffic is None:
            return Reason.SIGNALS_MISSING, "admission.mib_a_day is set, but bytes are not counted; run fedge-bpf attach"
        if policy.mib_a_day and used.traffic_bytes >= policy.mib_a_day * _MIB:
            return Reason.BYTES_BUDGET, f"{used.traffic_bytes / _MIB:.1f} of {policy.mib_a_day} MiB of today are used"
        return None

    def _rounds(self) -> Found | None:
        limit, used = self._policy.rounds_a_day, self._ledger.used(self._day())
        if self._running or not limit or used.rounds < limit:
            return None
        return Reason.ROUNDS_BUDGET, f"{used.rounds} of {limit} rounds of today are used"

    def _links(self) -> tuple[Found | None, Found | None]:
        """What is too much, and what is only unquiet: a link that is not known."""
        if self._policy.allow_metered and self._policy.allow_wireless:
            return None, None
        routes = self._routes()
        if routes is None:
            return None, (Reason.LINK_UNKNOWN, "the default link cannot be told: no routes in /proc/net")
        route = next(iter(routes), None)
        if route is not None and route.metered and not self._policy.allow_metered:
            return (Reason.METERED, f"{route.interface} is metered, and the owner does not allow that"), None
        if route is not None and route.wireless and not self._policy.allow_wireless:
            return (Reason.WIRELESS, f"{route.interface} is wireless, and the owner does not allow that"), None
        return None, None


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


class _AgentTraffic:
    """The bytes of the agent's cgroup, both ways, as the kernel programs count them."""

    def __init__(self, pin_dir: Path) -> None:
        self._pin_dir = pin_dir

    def __call__(self) -> int | None:
        try:
            with MapReader(self._pin_dir) as reader:
                totals = reader.network()
        except KernelLayerError:
            return None
        return totals[Counter.EGRESS_BYTES] + totals[Counter.INGRESS_BYTES]
