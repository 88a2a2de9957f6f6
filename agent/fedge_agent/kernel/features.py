"""One feature vector of the device for each window: names, units, sources, and how two samples become one vector.

Every feature says where it came from; a missing one is NaN in the values and a zero bit in the mask, never zero.
"""

import dataclasses
import enum
import math

from fedge_agent.kernel import peers
from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.pressure import Resource, Stall
from fedge_agent.kernel.records import Counter, MachineCounter
from fedge_agent.kernel.substitutes import Mean, Traffic, Waits, mean_wait_us

VECTOR_VERSION = 3
"""Changes with FEATURES: a ring of another version is not read."""
WINDOW_S = 10.0
_US_PER_S = 1e6
_P95 = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Feature:
    """One place of the vector.

    Attributes:
        source: the pinned map or file it comes from.
        substitute: what stands in when that is not there; empty: nothing, then it is missing.
    """

    name: str
    unit: str
    source: str
    substitute: str = ""


_PROC_NET = "/proc/net/dev, whole machine without lo"
FEATURE_TABLE: tuple[Feature, ...] = (
    Feature("egress_bytes_per_s", "B/s", "fedge_count, the agent's own", _PROC_NET),
    Feature("egress_packets_per_s", "1/s", "fedge_count, the agent's own", _PROC_NET),
    Feature("ingress_bytes_per_s", "B/s", "fedge_count, the agent's own", _PROC_NET),
    Feature("ingress_packets_per_s", "1/s", "fedge_count, the agent's own", _PROC_NET),
    Feature("connects_per_s", "1/s", "fedge_count, the agent's own", "/proc/net/snmp ActiveOpens, whole machine"),
    Feature("denials_per_s", "1/s", "fedge_count", "/proc/net/snmp AttemptFails, whole machine"),
    Feature("srtt_us", "us, p95", "fedge_srtt", "longest TCP_INFO of the daemon's own connections"),
    Feature("retransmits_per_s", "1/s", "fedge_tel", "/proc/net/snmp RetransSegs"),
    Feature("execs_per_s", "1/s", "fedge_tel", "/proc/stat processes (forks)"),
    Feature("run_queue_us", "us, p95", "fedge_runq", "mean of /proc/schedstat or /proc/*/schedstat"),
    Feature("block_us", "us, p95", "fedge_blk", "mean of /proc/diskstats"),
    Feature("reclaims_per_s", "1/s", "fedge_tel", "/proc/vmstat allocstall_*"),
    Feature("oom_kills_per_s", "1/s", "fedge_tel", "/proc/vmstat oom_kill"),
    Feature("cpu_some", "share", "/proc/pressure/cpu"),
    Feature("memory_some", "share", "/proc/pressure/memory"),
    Feature("memory_full", "share", "/proc/pressure/memory"),
    Feature("io_some", "share", "/proc/pressure/io"),
    Feature("io_full", "share", "/proc/pressure/io"),
    Feature("peers", "addresses", "fedge_peers, whole machine", "/proc/net/tcp, tcp6, those at the end"),
)
FEATURES: tuple[str, ...] = tuple(feature.name for feature in FEATURE_TABLE)
"""Names, in the order of the vector. Shares are of the window's length, 0 to 1."""


class Source(enum.Enum):
    """Where a feature came from."""

    KERNEL = "kernel"
    SUBSTITUTE = "substitute"
    MISSING = "missing"


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureVector:
    """Features of one window.

    Attributes:
        values: (19,) in the order of FEATURES; NaN where missing.
        sources: (19,) where each came from.
        end_ns: CLOCK_MONOTONIC at the end of the window.
        window_s: its length.
    """

    values: tuple[float, ...]
    sources: tuple[Source, ...]
    end_ns: int
    window_s: float

    @property
    def present_mask(self) -> int:
        """Bit i is set when feature i is there."""
        return sum(1 << i for i, source in enumerate(self.sources) if source is not Source.MISSING)

    @property
    def kernel_mask(self) -> int:
        """Bit i is set when feature i was measured by our programs or by PSI, not by a substitute."""
        return sum(1 << i for i, source in enumerate(self.sources) if source is Source.KERNEL)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """Monotonic totals at one instant; None where the source is not available.

    Attributes:
        network: counters of the agent's cgroup; `traffic` and `opened` stand in.
        machine: totals of the telemetry programs, those whose program is attached; `proc` stands in.
        srtt: (32,) histogram.
        run_queue: (32,) histogram; `queue` (whole machine) or `waits` (task by task) stands in.
        block: (32,) histogram; `disks` stands in.
        peers: (256,) stamps; `connected` stands in.
        refused: failed connection attempts, which stand in for denials; `own_srtt_us` for `srtt`.
    """

    stamp_ns: int
    network: dict[Counter, int] | None
    machine: dict[MachineCounter, int]
    srtt: tuple[int, ...] | None
    run_queue: tuple[int, ...] | None
    block: tuple[int, ...] | None
    traffic: Traffic | None
    opened: int | None
    refused: int | None
    peers: tuple[int, ...] | None
    connected: int | None
    own_srtt_us: float | None
    proc: dict[MachineCounter, int | None]
    queue: Mean | None
    waits: Waits | None
    disks: Mean | None
    pressure: dict[Resource, Stall | None]


Found = tuple[float | None, Source]


def features_between(before: Sample, now: Sample) -> FeatureVector:
    """The feature vector of the window from `before` to `now`."""
    window_s = max((now.stamp_ns - before.stamp_ns) / 1e9, 1e-9)
    found = [
        *_network(before, now, window_s),
        _first(_p95_us(before.srtt, now.srtt), now.own_srtt_us),
        _machine(MachineCounter.RETRANSMITS, before, now, window_s),
        _machine(MachineCounter.EXEC, before, now, window_s),
        _first(_p95_us(before.run_queue, now.run_queue), _wait_us(before, now)),
        _first(_p95_us(before.block, now.block), _mean_us(before.disks, now.disks)),
        _machine(MachineCounter.RECLAIMS, before, now, window_s),
        _machine(MachineCounter.OOM_KILLS, before, now, window_s),
        *_pressure(before, now, window_s),
        _peers(before, now),
    ]
    values = tuple(math.nan if value is None else value for value, _ in found)
    sources = tuple(Source.MISSING if value is None else source for value, source in found)
    return FeatureVector(values, sources, now.stamp_ns, window_s)


def _first(kernel: float | None, substitute: float | None) -> Found:
    return (kernel, Source.KERNEL) if kernel is not None else (substitute, Source.SUBSTITUTE)


def _rate(before: int | None, now: int | None, window_s: float) -> float | None:
    """Events a second; a total that went back was restarted in this window, which is then unknown."""
    return None if before is None or now is None or now < before else (now - before) / window_s


def _machine(counter: MachineCounter, before: Sample, now: Sample, window_s: float) -> Found:
    return _first(
        _rate(before.machine.get(counter), now.machine.get(counter), window_s),
        _rate(before.proc.get(counter), now.proc.get(counter), window_s),
    )


def _p95_us(before: tuple[int, ...] | None, now: tuple[int, ...] | None) -> float | None:
    return None if before is None or now is None else percentile_us(difference(now, before), _P95)


def _wait_us(before: Sample, now: Sample) -> float | None:
    if before.waits is not None and now.waits is not None:
        return mean_wait_us(before.waits, now.waits)
    return _mean_us(before.queue, now.queue)


def _mean_us(before: Mean | None, now: Mean | None) -> float | None:
    return None if before is None or now is None else now.since(before)


_TRAFFIC = (Counter.EGRESS_BYTES, Counter.EGRESS_PACKETS, Counter.INGRESS_BYTES, Counter.INGRESS_PACKETS)
_CONNECTS = (Counter.ALLOWED_CONNECT, Counter.DENIED_CONNECT)
_DENIED = (Counter.DENIED_CONNECT, Counter.DENIED_SENDMSG, Counter.DENIED_EGRESS, Counter.DENIED_BUDGET)


def _network(before: Sample, now: Sample, window_s: float) -> list[Found]:
    old, new = before.network, now.network
    if old is None or new is None:
        earlier, later = before.traffic, now.traffic
        if earlier is None or later is None:
            rates: list[float | None] = [None] * len(_TRAFFIC)
        else:
            rates = [_rate(a, b, window_s) for a, b in zip(earlier, later, strict=True)]
        opened = _rate(before.opened, now.opened, window_s)
        refused = _rate(before.refused, now.refused, window_s)
        return [(rate, Source.SUBSTITUTE) for rate in (*rates, opened, refused)]
    groups = (*((slot,) for slot in _TRAFFIC), _CONNECTS, _DENIED)
    return [
        (_rate(sum(old[slot] for slot in group), sum(new[slot] for slot in group), window_s), Source.KERNEL)
        for group in groups
    ]


def _peers(before: Sample, now: Sample) -> Found:
    met = None if now.peers is None else peers.count(now.peers, before.stamp_ns)
    return _first(met, None if now.connected is None else float(now.connected))


def _pressure(before: Sample, now: Sample, window_s: float) -> list[Found]:
    def share(resource: Resource, *, full: bool) -> Found:
        old, new = before.pressure[resource], now.pressure[resource]
        if old is None or new is None:
            return None, Source.MISSING
        first, last = (old.full_us, new.full_us) if full else (old.some_us, new.some_us)
        rate = _rate(first, last, window_s)
        return None if rate is None else min(rate / _US_PER_S, 1.0), Source.KERNEL

    return [
        share(Resource.CPU, full=False),
        share(Resource.MEMORY, full=False),
        share(Resource.MEMORY, full=True),
        share(Resource.IO, full=False),
        share(Resource.IO, full=True),
    ]
