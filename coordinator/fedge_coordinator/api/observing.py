"""Tells watchers and Prometheus what the running coordinator reports (`federation.observer.Observer`)."""

from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.views import Event
from fedge_coordinator.federation.observer import Event as Happening
from fedge_coordinator.federation.observer import Value
from fedge_coordinator.metrics import Metrics


class Observing:
    """An `Observer` that publishes every event and counts."""

    def __init__(self, hub: EventHub, metrics: Metrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self._opened_at_ms: dict[str, int] = {}

    def happened(self, event: Happening) -> None:
        """Publish the event; those about rounds are counted too."""
        self._hub.publish(Event(event.name, event.at_ms, dict(event.fields)))
        if event.name == "device-condition":
            self._metrics.condition_told(str(event.fields.get("state")), str(event.fields.get("reason")))
        job = event.fields.get("job")
        if isinstance(job, str):
            self._count(job, event)

    def refused(self, kind: str, reason: str) -> None:
        """A message was refused."""
        self._metrics.message_refused(kind, reason)

    def received(self, kind: str, size: int) -> None:
        """A message of `size` bytes arrived, valid or not."""
        self._metrics.message_received(kind, size)

    def _count(self, job: str, event: Happening) -> None:
        fields = event.fields
        match event.name:
            case "round-opened":
                self._opened_at_ms[job] = event.at_ms
                self._metrics.phase_entered(job, "ready")
            case "round-resumed" | "input":
                phase = fields.get("phase")
                self._metrics.phase_entered(job, phase if isinstance(phase, str) else "")
            case "round-finished":
                opened_at_ms = self._opened_at_ms.pop(job, None)
                self._metrics.phase_entered(job, "")
                self._metrics.round_finished(
                    job,
                    participants=_count_of(fields.get("participants")),
                    dropouts=_count_of(fields.get("dropouts")),
                    bytes_up=_count_of(fields.get("bytes_up")),
                    seconds=None if opened_at_ms is None else (event.at_ms - opened_at_ms) / 1000,
                )
            case "round-aborted":
                self._opened_at_ms.pop(job, None)
                self._metrics.phase_entered(job, "")
                self._metrics.round_aborted(job)


def _count_of(value: Value) -> int:
    return value if isinstance(value, int) else 0
