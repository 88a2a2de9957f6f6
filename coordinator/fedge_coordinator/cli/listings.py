"""The tables of `fedgectl get`."""

import time
from typing import Final

from fedge_coordinator.api.views import CheckpointView, DeviceView, JobView, RewardView, RoundView
from fedge_coordinator.cli.rendering import Column, Listing, age, cohort, numbers, or_dash
from fedge_protocol.health import NETWORK_UNGUARDED, network_guarded
from fedge_protocol.jobspec import SECURE_FLOOR

_SHORT: Final = 12
DUPLICATES: Final = {
    "behind": "a disk with its keys has forgotten what the device said: it is a copy, or was restored from a backup",
    "other-host": "its keys are used on another machine than before",
}
"""What the reasons of a duplicate identity mean."""


def network_guard(device: DeviceView) -> str:
    """Who keeps the device's agent to its allow-list, as it said when it was last seen."""
    if not device.version:
        return "-"
    return "guarded by its kernel" if network_guarded(device.missing_features) else "not guarded by its kernel"


def device_status(device: DeviceView) -> str:
    """`revoked`, `duplicate identity`, `online` or `offline`."""
    if device.revoked:
        return "revoked"
    if device.duplicate is not None:
        return "duplicate identity"
    return "online" if device.online else "offline"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _note(*, below: bool) -> str:
    return f"below the secure floor of {SECURE_FLOOR}" if below else ""


def _last_refusal(device: DeviceView) -> str:
    return "-" if device.refusal is None else device.refusal.reason


JOBS: Final = Listing[JobView](
    "job",
    lambda job: job.name,
    (
        Column("NAME", lambda job: job.name),
        Column("STATUS", lambda job: str(job.status)),
        Column("ROUNDS", lambda job: f"{job.next_round - 1}/{job.rounds}"),
        Column("PHASE", lambda job: or_dash(job.phase)),
        Column("METRICS", lambda job: numbers(job.metrics)),
        Column("COHORT", lambda job: cohort(job.cohort_minimum, job.cohort_target, below=job.below_secure_floor)),
        Column("AGE", lambda job: age(job.created_at_ms, _now_ms())),
        Column("REASON", lambda job: or_dash(job.reason), wide=True),
        Column("MODEL", lambda job: or_dash(job.weights), wide=True),
        Column("SPEC", lambda job: job.spec_hash, wide=True),
    ),
    "no jobs; make one: fedgectl apply -f training-job.yaml",
)

ROUNDS: Final = Listing[RoundView](
    "round",
    lambda each: f"{each.job}/{each.round}/{each.attempt}",
    (
        Column("JOB", lambda each: each.job),
        Column("ROUND", lambda each: str(each.round)),
        Column("ATTEMPT", lambda each: str(each.attempt)),
        Column("STATUS", lambda each: str(each.status)),
        Column("PHASE", lambda each: or_dash(each.phase)),
        Column("PARTICIPANTS", lambda each: or_dash(each.participants)),
        Column("DROPOUTS", lambda each: or_dash(each.dropouts)),
        Column("METRICS", lambda each: numbers(each.metrics)),
        Column("AGE", lambda each: age(each.opened_at_ms, _now_ms())),
        Column("BYTES UP", lambda each: or_dash(each.bytes_up), wide=True),
        Column("NOTE", lambda each: _note(below=each.below_secure_floor)),
    ),
    "no rounds yet",
)

DEVICES: Final = Listing[DeviceView](
    "device",
    lambda device: device.device,
    (
        Column("DEVICE", lambda device: device.device),
        Column("STATUS", device_status),
        Column("STATE", lambda device: or_dash(device.state)),
        Column("LAST SEEN", lambda device: age(device.last_seen_ms, _now_ms())),
        Column("LAST REFUSAL", _last_refusal),
        Column("PREKEYS", lambda device: str(device.prekeys_fresh)),
        Column("VERSION", lambda device: or_dash(device.version)),
        Column("MISSING FEATURES", lambda device: f"{device.missing_features & ~NETWORK_UNGUARDED:#x}", wide=True),
        Column("NETWORK", network_guard, wide=True),
        Column("FIRST SEEN", lambda device: age(device.first_seen_ms, _now_ms()), wide=True),
    ),
    "no device was seen yet; enrol one: fedgectl token create",
)

CHECKPOINTS: Final = Listing[CheckpointView](
    "checkpoint",
    lambda each: f"{each.job}/{each.round}",
    (
        Column("JOB", lambda each: each.job),
        Column("ROUND", lambda each: str(each.round)),
        Column("MODEL", lambda each: each.weights[:_SHORT]),
        Column("PARTICIPANTS", lambda each: str(each.participants)),
        Column("CHECKPOINT", lambda each: or_dash(each.checkpoint)[:_SHORT]),
        Column("TRANSACTION", lambda each: or_dash(each.tx_hash)[:_SHORT]),
        Column("AGE", lambda each: age(each.finished_at_ms, _now_ms())),
        Column("MODEL HASH", lambda each: each.weights, wide=True),
        Column("NOTE", lambda each: _note(below=each.below_secure_floor)),
    ),
    "no checkpoints yet",
)

REWARDS: Final = Listing[RewardView](
    "reward",
    lambda each: f"{each.job}/{each.account}",
    (
        Column("JOB", lambda each: each.job),
        Column("ACCOUNT", lambda each: each.account),
        Column("EARNED", lambda each: each.earned),
        Column("PAID", lambda each: each.paid),
    ),
    "no rewards yet",
)
