from prometheus_client import generate_latest

from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.observing import Observing
from fedge_coordinator.federation.observer import Event as Happening
from fedge_coordinator.metrics import Metrics


async def test_a_round_is_published_and_counted():
    hub, metrics = EventHub(), Metrics("0.1")
    observing = Observing(hub, metrics)
    observing.happened(Happening("round-opened", 1_000, {"job": "digits", "round": 1, "attempt": 0}))
    observing.happened(Happening("input", 1_200, {"job": "digits", "phase": "shares"}))
    phases = generate_latest(metrics.registry).decode()
    assert 'fedge_coordinator_round_phase{job="digits",phase="shares"} 1.0' in phases
    summary = {"participants": 7, "dropouts": 1, "bytes_up": 900, "accuracy": 0.5}
    observing.happened(Happening("round-finished", 1_500, {"job": "digits", "round": 1, **summary}))
    observing.happened(Happening("round-aborted", 1_600, {"job": "digits", "round": 2, "reason": "below-threshold"}))
    found = generate_latest(metrics.registry).decode().splitlines()
    assert 'fedge_coordinator_round_participants{job="digits"} 7.0' in found
    assert 'fedge_coordinator_round_duration_seconds_sum{job="digits"} 0.5' in found
    assert 'fedge_coordinator_rounds_total{job="digits",result="aborted"} 1.0' in found
    watching = hub.watch(after=0)
    assert [(await anext(watching)).name for _ in range(4)] == [
        "round-opened",
        "input",
        "round-finished",
        "round-aborted",
    ]


def test_a_round_opened_by_a_killed_coordinator_has_no_duration():
    metrics = Metrics("0.1")
    Observing(EventHub(), metrics).happened(Happening("round-finished", 1_500, {"job": "digits", "participants": 3}))
    assert "duration_seconds_sum{" not in generate_latest(metrics.registry).decode()


def test_messages_are_counted():
    metrics = Metrics("0.1")
    observing = Observing(EventHub(), metrics)
    observing.received("ready", 100)
    observing.refused("ready", "bad-signature")
    found = generate_latest(metrics.registry).decode()
    assert 'messages_total{kind="ready"} 1.0' in found
    assert 'messages_refused_total{kind="ready",reason="bad-signature"} 1.0' in found
