"""What the API shows: frozen values, camelCase as JSON, hashes and addresses as hexadecimal text."""

import msgspec

from fedge_coordinator.states import JobStatus, Outcome, RoundStatus
from fedge_protocol.jobspec import TrainingJob


class View(msgspec.Struct, frozen=True, rename="camel"):
    """A value of the API. Unknown fields are ignored, so that an older `fedgectl` reads a newer coordinator."""


class JobView(View, frozen=True):
    """A job as its operator sees it. `warnings` must be shown wherever the job is."""

    name: str
    status: JobStatus
    reason: str
    next_round: int
    rounds: int
    phase: str
    cohort_minimum: int
    cohort_target: int
    below_secure_floor: bool
    warnings: tuple[str, ...]
    metrics: dict[str, float]
    spec_hash: str
    graph: str | None
    weights: str | None
    created_at_ms: int
    updated_at_ms: int
    document: TrainingJob


class RoundView(View, frozen=True):
    """One attempt at a round. Counts are None as long as they are not known."""

    job: str
    round: int
    attempt: int
    status: RoundStatus
    phase: str
    opened_at_ms: int
    closed_at_ms: int | None
    participants: int | None
    dropouts: int | None
    bytes_up: int | None
    metrics: dict[str, float]
    below_secure_floor: bool


class RefusalView(View, frozen=True):
    """Why a device last stayed out."""

    reason: str
    detail: str
    at_ms: int


class DuplicateView(View, frozen=True):
    """Why, and since when, a device takes part in nothing: its identity is on more than one disk."""

    reason: str
    since_ms: int


class DeviceView(View, frozen=True):
    """A device as last seen."""

    device: str
    online: bool
    revoked: bool
    state: str
    version: str
    missing_features: int
    first_seen_ms: int
    last_seen_ms: int
    prekeys_fresh: int
    refusal: RefusalView | None
    duplicate: DuplicateView | None = None


class CheckpointView(View, frozen=True):
    """The model that a round made, and where that was settled."""

    job: str
    round: int
    weights: str
    participants: int
    finished_at_ms: int
    checkpoint: str | None
    tx_hash: str | None
    below_secure_floor: bool


class RewardView(View, frozen=True):
    """One account's rewards in one job; token units as decimal text, because JSON numbers are not exact."""

    job: str
    account: str
    earned: str
    paid: str


class AppliedView(View, frozen=True):
    """What applying a document did, or would do."""

    outcome: Outcome
    dry_run: bool
    name: str
    spec_hash: str
    warnings: tuple[str, ...]
    job: JobView | None


class Event(View, frozen=True):
    """Something that happened; `name` and `fields` as `federation.observer.Event` has them.

    `id` counts from 1 since the coordinator's start; 0 until the hub gives one.
    """

    name: str
    at_ms: int
    fields: dict[str, str | int | float | bool | None] = {}
    id: int = 0
