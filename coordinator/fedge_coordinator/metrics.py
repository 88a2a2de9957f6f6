"""What Prometheus learns of the coordinator. No label carries a device, so the number of series is bounded."""

from collections.abc import Callable, Container, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fedge_coordinator.store import Store
from fedge_coordinator.store.devices import Device
from fedge_protocol.conditions import ConditionReason, ConditionState
from fedge_protocol.errors import Reason
from fedge_protocol.messages import PRESENCE_KIND, Up

_KNOWN_KINDS: Final = frozenset({*map(str, Up), PRESENCE_KIND})
_KNOWN_REASONS: Final = frozenset(map(str, Reason))
_KNOWN_STATES: Final = frozenset(map(str, ConditionState))
_KNOWN_CONDITIONS: Final = frozenset(map(str, ConditionReason))
_ROUND_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
DEVICE_STATES: Final = ("online", "offline", "revoked", "duplicate")


class Metrics:
    """The coordinator's metrics, on a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter(
            "fedge_coordinator_messages_refused",
            "Messages that were refused, by kind and named reason",
            ("kind", "reason"),
            registry=self.registry,
        )
        self._received = Counter(
            "fedge_coordinator_messages", "Messages received, valid or not", ("kind",), registry=self.registry
        )
        self._received_bytes = Counter(
            "fedge_coordinator_received_bytes", "Bytes of these messages", ("kind",), registry=self.registry
        )
        self._conditions = Counter(
            "fedge_coordinator_device_conditions",
            "What devices told of their training admission, by state and reason",
            ("state", "reason"),
            registry=self.registry,
        )
        self._rounds = Counter(
            "fedge_coordinator_rounds", "Rounds that ended", ("job", "result"), registry=self.registry
        )
        self._participants = Gauge(
            "fedge_coordinator_round_participants",
            "Updates in the last finished round",
            ("job",),
            registry=self.registry,
        )
        self._dropouts = Gauge(
            "fedge_coordinator_round_dropouts",
            "Devices that dropped out of the last finished round",
            ("job",),
            registry=self.registry,
        )
        self._phase = Gauge(
            "fedge_coordinator_round_phase",
            "1 for the phase that the open round of a job is in",
            ("job", "phase"),
            registry=self.registry,
        )
        self._round_seconds = Histogram(
            "fedge_coordinator_round_duration_seconds",
            "From the offer to the stored checkpoint",
            ("job",),
            buckets=_ROUND_SECONDS,
            registry=self.registry,
        )
        self._bytes_up = Counter(
            "fedge_coordinator_update_bytes", "Bytes of masked updates received", ("job",), registry=self.registry
        )
        self._settlement_pending = Gauge(
            "fedge_coordinator_settlement_pending", "Settlement entries that are not final yet", registry=self.registry
        )
        self._certificate_expiry = Gauge(
            "fedge_coordinator_cert_expiry_timestamp_seconds",
            "When the coordinator's certificate ends",
            registry=self.registry,
        )
        Gauge("fedge_coordinator_build_info", "Always 1", ("version",), registry=self.registry).labels(version).set(1)

    def message_received(self, kind: str, size: int) -> None:
        """Count a message of `size` bytes; a kind that no message has is counted as `unknown`."""
        self._received_bytes.labels(_known(kind, _KNOWN_KINDS)).inc(size)
        self._received.labels(_known(kind, _KNOWN_KINDS)).inc()

    def message_refused(self, kind: str, reason: str) -> None:
        """Count a refused message; kinds and reasons that the protocol does not have are counted as `unknown`."""
        self._refused.labels(_known(kind, _KNOWN_KINDS), _known(reason, _KNOWN_REASONS)).inc()

    def condition_told(self, state: str, reason: str) -> None:
        """Count what a device told of its training admission; words that the protocol does not have are `unknown`."""
        self._conditions.labels(_known(state, _KNOWN_STATES), _known(reason, _KNOWN_CONDITIONS)).inc()

    def phase_entered(self, job: str, phase: str) -> None:
        """A job's open round is in this phase now; empty when it has no open round."""
        self._leave_phase(job)
        if phase:
            self._phase.labels(job, phase).set(1)

    def round_finished(
        self, job: str, *, participants: int, dropouts: int, bytes_up: int, seconds: float | None
    ) -> None:
        """A round ended with a checkpoint; `seconds` is None when this process did not open it."""
        self._rounds.labels(job, "finished").inc()
        self._participants.labels(job).set(participants)
        self._dropouts.labels(job).set(dropouts)
        self._bytes_up.labels(job).inc(bytes_up)
        if seconds is not None:
            self._round_seconds.labels(job).observe(seconds)

    def round_aborted(self, job: str) -> None:
        """A round ended without one."""
        self._rounds.labels(job, "aborted").inc()

    def watch_settlement(self, pending: Callable[[], int]) -> None:
        """Show, at each scrape, how many settlement entries are not final."""
        self._settlement_pending.set_function(pending)

    def certificate_expires(self, unix_seconds: float) -> None:
        """When the coordinator's own certificate ends."""
        self._certificate_expiry.set(unix_seconds)

    def watch_store(self, store: Store) -> None:
        """Also show, at each scrape, how many devices and jobs there are in each state."""
        self.registry.register(_StoreCollector(store))

    def _leave_phase(self, job: str) -> None:
        for phase in {labels["phase"] for labels in _labels(self._phase) if labels["job"] == job}:
            self._phase.remove(job, phase)


class _StoreCollector(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Read the store once."""
        devices = GaugeMetricFamily("fedge_coordinator_devices", "Devices ever seen, by state", labels=("state",))
        duplicates = self._store.sessions.duplicates()
        states = [_state(device, duplicates) for device in self._store.devices.all()]
        for state in DEVICE_STATES:
            devices.add_metric((state,), states.count(state))
        jobs = GaugeMetricFamily("fedge_coordinator_jobs", "Jobs by status", labels=("status",))
        for status, count in self._store.jobs.counts().items():
            jobs.add_metric((status,), count)
        conditions = GaugeMetricFamily(
            "fedge_coordinator_devices_by_condition",
            "Members that are online, by what they last told of their training admission",
            labels=("state", "reason"),
        )
        for (state, reason), count in _conditions(self._store).items():
            conditions.add_metric((state, reason), count)
        return (devices, jobs, conditions)


def _conditions(store: Store) -> dict[tuple[str, str], int]:
    told = [device.state for device in store.devices.all() if device.online and device.state and not device.revoked]
    words = [state.partition(": ")[::2] for state in told]
    known = [(_known(state, _KNOWN_STATES), _known(reason, _KNOWN_CONDITIONS)) for state, reason in words]
    return {pair: known.count(pair) for pair in sorted(set(known))}


def _known(name: str, known: frozenset[str]) -> str:
    return name if name in known else "unknown"


def _state(device: Device, duplicates: Container[str]) -> str:
    if device.revoked:
        return "revoked"
    if device.device in duplicates:
        return "duplicate"
    return "online" if device.online else "offline"


def _labels(gauge: Gauge) -> list[dict[str, str]]:
    return [sample.labels for family in gauge.collect() for sample in family.samples]
