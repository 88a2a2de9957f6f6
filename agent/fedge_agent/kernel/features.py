"""One feature vector of the device for each window: names, sources, and how two samples become one vector.

Every feature says where it came from; a missing one is NaN in the values and a zero bit in the mask, never zero.
"""

import dataclasses
import enum
import math

from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.pressure import Resource, Stall
from fedge_agent.kernel.records import Counter
from fedge_agent.kernel.substitutes import Mean, Waits, mean_wait_us

_US_PER_S = 1e6
_P95 = 0.95
FEATURES: tuple[str, ...] = (
    "egress_bytes_per_s",
    "egress_packets_per_s",
    "ingress_bytes_per_s",
    "ingress_packets_per_s",
    "denials_per_s",
    "retransmits_per_s",
    "execs_per_s",
    "run_queue_us",
    "block_us",
    "cpu_some",
    "memory_some",
    "memory_full",
    "io_some",
    "io_full",
)
"""Names, in the order of the vector. `run_queue_us` and `block_us` are p95 from the kernel, means from a substitute;
the last five are shares of the window, 0 to 1."""


class Source(enum.Enum):
    """Where a feature came from."""

    KERNEL = "kernel"
    SUBSTITUTE = "substitute"
    MISSING = "missing"


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureVector:
    """Features of one window.

    Attributes:
        values: (14,) in the order of FEATURES; NaN where missing.
        sources: (14,) where each came from.
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
        execs: from the kernel map; `forks` stands in for it.
        segments: TCP retransmits from the kernel map; `retransmits` (/proc/net/snmp) stands in.
        run_queue: (32,) histogram; `waits` stands in.
        block: (32,) histogram; `disks` stands in.
    """

    stamp_ns: int
    network: dict[Counter, int] | None
    execs: int | None
    segments: int | None
    run_queue: tuple[int, ...] | None
    block: tuple[int, ...] | None
    forks: int | None
    retransmits: int | None
    waits: Waits | None
    disks: Mean | None
    pressure: dict[Resource, Stall | None]


Found = tuple[float | None, Source]


def features_between(before: Sample, now: Sample) -> FeatureVector:
    """The feature vector of the window from `before` to `now`."""
    window_s = max((now.stamp_ns - before.stamp_ns) / 1e9, 1e-9)
    found = [
        *_network(before, now, window_s),
        _first(_rate(before.segments, now.segments, window_s), _rate(before.retransmits, now.retransmits, window_s)),
        _first(_rate(before.execs, now.execs, window_s), _rate(before.forks, now.forks, window_s)),
        _first(_p95_us(before.run_queue, now.run_queue), _wait_us(before.waits, now.waits)),
        _first(_p95_us(before.block, now.block), _mean_us(before.disks, now.disks)),
        *_pressure(before, now, window_s),
    ]
    values = tuple(math.nan if value is None else value for value, _ in found)
    sources = tuple(Source.MISSING if value is None else source for value, source in found)
    return FeatureVector(values, sources, now.stamp_ns, window_s)


def _first(kernel: float | None, substitute: float | None) -> Found:
    return (kernel, Source.KERNEL) if kernel is not None else (substitute, Source.SUBSTITUTE)


def _rate(before: int | None, now: int | None, window_s: float) -> float | None:
    """Events a second; a total that went back was restarted in this window, which is then unknown."""
    return None if before is None or now is None or now < before else (now - before) / window_s


def _p95_us(before: tuple[int, ...] | None, now: tuple[int, ...] | None) -> float | None:
    return None if before is None or now is None else percentile_us(difference(now, before), _P95)


def _wait_us(before: Waits | None, now: Waits | None) -> float | None:
    return None if before is None or now is None else mean_wait_us(before, now)


def _mean_us(before: Mean | None, now: Mean | None) -> float | None:
    return None if before is None or now is None else now.since(before)


_TRAFFIC = (Counter.EGRESS_BYTES, Counter.EGRESS_PACKETS, Counter.INGRESS_BYTES, Counter.INGRESS_PACKETS)
_DENIED = (Counter.DENIED_CONNECT, Counter.DENIED_SENDMSG, Counter.DENIED_EGRESS)


def _network(before: Sample, now: Sample, window_s: float) -> list[Found]:
    if before.network is None or now.network is None:
        return [(None, Source.MISSING)] * (len(_TRAFFIC) + 1)
    old, new = before.network, now.network
    rates: list[Found] = [(_rate(old[slot], new[slot], window_s), Source.KERNEL) for slot in _TRAFFIC]
    denied = _rate(sum(old[slot] for slot in _DENIED), sum(new[slot] for slot in _DENIED), window_s)
    return [*rates, (denied, Source.KERNEL)]


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
