from pathlib import Path

from prometheus_client import generate_latest

from fedge_coordinator.metrics import Metrics
from fedge_coordinator.store import open_store
from fedge_protocol.errors import Reason


def exposed(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


def test_refused_messages_are_counted_and_strange_kinds_make_no_series():
    metrics = Metrics("0.1")
    metrics.message_refused("ready", Reason.BAD_SIGNATURE)
    metrics.message_refused("ready", "made-up")
    metrics.message_received("ready", 512)
    for number in range(3):
        metrics.message_refused(f"kind-{number}", Reason.MALFORMED)
    found = exposed(metrics)
    assert 'fedge_coordinator_messages_refused_total{kind="ready",reason="bad-signature"} 1.0' in found
    assert 'fedge_coordinator_messages_refused_total{kind="unknown",reason="malformed"} 3.0' in found
    assert 'fedge_coordinator_messages_refused_total{kind="ready",reason="unknown"} 1.0' in found
    assert 'fedge_coordinator_received_bytes_total{kind="ready"} 512.0' in found


def test_a_job_is_in_one_phase_at_a_time():
    metrics = Metrics("0.1")
    metrics.phase_entered("digits", "ready")
    metrics.phase_entered("other", "ready")
    metrics.phase_entered("digits", "shares")
    phases = [line for line in exposed(metrics) if line.startswith("fedge_coordinator_round_phase{")]
    assert sorted(phases) == [
        'fedge_coordinator_round_phase{job="digits",phase="shares"} 1.0',
        'fedge_coordinator_round_phase{job="other",phase="ready"} 1.0',
    ]
    metrics.phase_entered("digits", "")
    assert not [line for line in exposed(metrics) if 'round_phase{job="digits"' in line]


def test_a_finished_round_shows_its_participants():
    metrics = Metrics("0.1")
    metrics.round_finished("digits", participants=30, dropouts=2, bytes_up=1_000, seconds=0.4)
    metrics.round_aborted("digits")
    found = exposed(metrics)
    assert 'fedge_coordinator_round_participants{job="digits"} 30.0' in found
    assert 'fedge_coordinator_rounds_total{job="digits",result="finished"} 1.0' in found
    assert 'fedge_coordinator_rounds_total{job="digits",result="aborted"} 1.0' in found
    assert 'fedge_coordinator_build_info{version="0.1"} 1.0' in found


def test_devices_are_counted_by_state_and_never_named(tmp_path: Path):
    metrics, store = Metrics("0.1"), open_store(tmp_path / "store.db")
    metrics.watch_store(store)
    store.devices.presence("ab" * 16, online=True, version="0.1", missing_features=0)
    store.devices.presence("cd" * 16, online=True, version="0.1", missing_features=0)
    store.devices.set_revoked("cd" * 16, revoked=True)
    store.devices.presence("ef" * 16, online=True, version="0.1", missing_features=0)
    store.sessions.mark("ef" * 16, "behind")
    found = exposed(metrics)
    assert 'fedge_coordinator_devices{state="duplicate"} 1.0' in found
    assert 'fedge_coordinator_devices{state="online"} 1.0' in found
    assert 'fedge_coordinator_devices{state="offline"} 0.0' in found
    assert 'fedge_coordinator_devices{state="revoked"} 1.0' in found
    assert 'fedge_coordinator_jobs{status="pending"} 0.0' in found
    assert "abab" not in "\n".join(found)


def test_what_settlement_has_not_carried_out_is_read_at_each_scrape():
    metrics, pending = Metrics("1"), [3]
    metrics.watch_settlement(lambda: pending[0])
    assert metrics.registry.get_sample_value("fedge_coordinator_settlement_pending") == 3
    pending[0] = 0
    assert metrics.registry.get_sample_value("fedge_coordinator_settlement_pending") == 0


def test_devices_are_counted_by_the_condition_that_they_told_and_made_up_words_are_unknown(tmp_path):
    metrics, store = Metrics("1"), open_store(tmp_path / "store.db")
    metrics.watch_store(store)
    for device, state in (("ab", "paused: run-queue"), ("cd", "paused: run-queue"), ("ef", "made: up")):
        store.devices.presence(device * 16, online=True, version="1", missing_features=0)
        store.devices.set_state(device * 16, state)
    store.devices.presence("cd" * 16, online=False, version="1", missing_features=0)
    metrics.condition_told("paused", "run-queue")
    metrics.condition_told("paused", "made-up")
    found = exposed(metrics)
    assert 'fedge_coordinator_devices_by_condition{reason="run-queue",state="paused"} 1.0' in found
    assert 'fedge_coordinator_devices_by_condition{reason="unknown",state="unknown"} 1.0' in found
    assert 'fedge_coordinator_device_conditions_total{reason="run-queue",state="paused"} 1.0' in found
    assert 'fedge_coordinator_device_conditions_total{reason="unknown",state="paused"} 1.0' in found
