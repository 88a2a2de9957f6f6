"""The training job: the document that operators apply, and that every offer is derived from.

The same YAML serves `fedgectl apply` and a Kubernetes custom resource. Field names are camelCase there, snake_case
here. `parse` takes plain data; reading YAML is the caller's.
"""

import hashlib
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from fedge_protocol.errors import ProtocolError
from fedge_protocol.faults import Fault, faults
from fedge_protocol.ids import JOB_PATTERN
from fedge_protocol.messages import MAX_COHORT

SECURE_FLOOR: Final = 16
"""The fewest devices in a sum that the secure profile FSA/1 vouches for."""
MAX_TOKEN_UNITS: Final = 2**128 - 1
_MODE: Final = ("spec", "aggregation", "mode")
_FUTURE_MODES: Final = ("flat", "open", "helper")

JobName = Annotated[
    str, Meta(pattern=JOB_PATTERN, description="1 to 48 characters of lower-case letters, digits and '-'")
]
SourceName = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z", description="a name of lower-case letters, digits, '.', '_', '-'"),
]
LabelKey = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}\Z", description="a label name of at most 63 characters")
]
LabelValue = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{0,63}\Z", description="text of at most 63 letters, digits, '.', '_', '-'")
]
TokenUnits = Annotated[
    str, Meta(pattern=r"^(0|[1-9][0-9]{0,38})\Z", description='token units as quoted digits, such as "1000000"')
]
Layer: TypeAlias = dict[str, int | float | str | bool]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
Devices = Annotated[int, Meta(ge=2, le=MAX_COHORT)]


class JobSpecError(ProtocolError):
    """The document is no valid training job. `faults` lists everything that is wrong, in document order."""

    def __init__(self, found: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in found))
        self.faults = tuple(found)


class Section(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of the document."""


class Metadata(Section, frozen=True):
    """What the job is called."""

    name: JobName
    labels: Annotated[dict[LabelKey, LabelValue], Meta(max_length=32)] = {}


class Model(Section, frozen=True):
    """A network by layers, checked in full by the coordinator's model kit. `input` counts features a sample."""

    input: Annotated[int, Meta(ge=1, le=16384)]
    layers: Annotated[list[Layer], Meta(min_length=1, max_length=32)]
    loss: str
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


class SourceKind(StrEnum):
    """Where a device's own data comes from."""

    KERNEL_TELEMETRY = "kernel-telemetry"
    DIRECTORY = "directory"
    MQTT = "mqtt"


class Data(Section, frozen=True):
    """A data source by the name that device owners gave it; never a path."""

    source: SourceName
    kind: SourceKind


class Training(Section, frozen=True):
    """What a device does in a round. A device of n samples counts as min(ceil(n / weightUnit), weightMax)."""

    learning_rate: Positive
    clip_norm: Positive
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 16
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    proximal_mu: NonNegative = 0.0
    max_samples: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    weight_unit: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    weight_max: Annotated[int, Meta(ge=1, le=1024)] = 1


class Cohort(Section, frozen=True):
    """How many devices make a round, and how long they are waited for.

    `ready_seconds` is the time to train and answer an offer, `phase_seconds` that of each exchange after it.
    """

    minimum: Devices
    target: Devices
    allow_small_cohort: bool = False
    ready_seconds: Annotated[int, Meta(ge=1, le=7 * 86400)] = 600
    phase_seconds: Annotated[int, Meta(ge=1, le=3600)] = 30


class Strategy(StrEnum):
    """How the sum becomes the next model."""

    FEDAVG = "fedavg"
    FEDPROX = "fedprox"


class Suite(StrEnum):
    """The mask generator of a round."""

    CHACHA20 = "chacha20"
    AES128CTR = "aes128ctr"

    @property
    def number(self) -> int:
        """The suite as `messages.Offer.suite` has it."""
        return 1 if self is Suite.CHACHA20 else 2


class Aggregation(Section, frozen=True):
    """How updates are summed and applied. `mode` secure is FSA/1: the coordinator sees sums only."""

    mode: Literal["secure"] = "secure"
    strategy: Strategy = Strategy.FEDAVG
    server_learning_rate: Annotated[float, Meta(gt=0, le=10)] = 1.0
    suite: Suite = Suite.CHACHA20


class Privacy(Section, frozen=True):
    """`floor`: a bucket whose sum would hold fewer updates is aborted; None leaves it to the unmasking threshold."""

    floor: Devices | None = None


class Admission(Section, frozen=True):
    """When a device may train, where the job wants to be stricter than the owner; None leaves it to the owner."""

    require_external_power: bool | None = None
    require_unmetered_link: bool | None = None
    max_temperature_celsius: Annotated[float, Meta(gt=0, le=150)] | None = None
    max_cpu_pressure_percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    max_run_queue_latency_us: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None


class Rewards(Section, frozen=True):
    """`per_round` token units (smallest denomination) are split among the participants of each round."""

    per_round: TokenUnits
    epoch_rounds: Annotated[int, Meta(ge=1, le=100_000)] = 1
    rule: Literal["participation-v1"] = "participation-v1"


class Rollout(Section, frozen=True):
    """How many rounds, and the pause between two of them."""

    rounds: Annotated[int, Meta(ge=1, le=1_000_000)]
    pause_seconds: Annotated[int, Meta(ge=0, le=30 * 86400)] = 0


class Spec(Section, frozen=True):
    """The sections of a training job."""

    model: Model
    data: Data
    training: Training
    cohort: Cohort
    rollout: Rollout
    aggregation: Aggregation = Aggregation()
    privacy: Privacy = Privacy()
    admission: Admission = Admission()
    rewards: Rewards | None = None


class TrainingJob(Section, frozen=True):
    """A whole document."""

    api_version: Literal["fedge.dev/v1alpha1"]
    kind: Literal["TrainingJob"]
    metadata: Metadata
    spec: Spec

    @property
    def below_secure_floor(self) -> bool:
        """Whether a round of this job may hold fewer devices than the secure profile vouches for."""
        return self.spec.cohort.minimum < SECURE_FLOOR


def parse(document: object) -> TrainingJob:
    """A training job from plain data.

    Raises:
        JobSpecError: with every fault.
    """
    found = [_not_built_yet(fault, document) for fault in faults(document, TrainingJob)]
    if found:
        raise JobSpecError(found)
    try:
        job = msgspec.convert(document, TrainingJob)
    except msgspec.ValidationError as error:
        raise JobSpecError([Fault((), str(error))]) from error
    found = _contradictions(job.spec)
    if found:
        raise JobSpecError(found)
    return job


def canonical(job: TrainingJob) -> bytes:
    """The document as JSON with sorted keys and all defaults written out: equal jobs give equal bytes."""
    return msgspec.json.encode(job, order="sorted")


def spec_hash(job: TrainingJob) -> bytes:
    """SHA-256 of `canonical`: 32 bytes that offers and the chain carry."""
    return hashlib.sha256(canonical(job)).digest()


def model_section(job: TrainingJob) -> dict[str, object]:
    """What the coordinator's model kit builds the graph from; it decides whether two jobs have the same model."""
    model = job.spec.model
    return {
        "input": model.input,
        "layers": model.layers,
        "loss": model.loss,
        "batchSize": job.spec.training.batch_size,
        "seed": model.seed,
    }


def warnings_of(job: TrainingJob) -> tuple[str, ...]:
    """What people should know wherever the job is shown."""
    found = []
    if job.below_secure_floor:
        found.append(f"cohort of {job.spec.cohort.minimum} is below the secure floor of {SECURE_FLOOR}")
    if job.spec.admission != Admission():
        found.append("spec.admission is recorded, but this version does not send it to devices")
    return tuple(found)


def _not_built_yet(fault: Fault, document: object) -> Fault:
    """A mode that the design names and this version lacks is said to be that, rather than to be a bad value."""
    if fault.path != _MODE:
        return fault
    value = document
    for part in _MODE:
        value = value.get(part) if isinstance(value, dict) else None
    return Fault(_MODE, f"mode {value!r} is not built yet; use secure") if value in _FUTURE_MODES else fault


def _contradictions(spec: Spec) -> list[Fault]:
    """Faults between fields that are right each by itself."""
    found = []
    cohort = ("spec", "cohort")
    if spec.cohort.target < spec.cohort.minimum:
        found.append(
            Fault((*cohort, "target"), f"{spec.cohort.target} is below spec.cohort.minimum {spec.cohort.minimum}")
        )
    if spec.cohort.minimum < SECURE_FLOOR and not spec.cohort.allow_small_cohort:
        found.append(
            Fault(
                (*cohort, "minimum"),
                f"{spec.cohort.minimum} is below the secure floor of {SECURE_FLOOR}: a sum of so few updates says much "
                "about each; raise it, or accept that with spec.cohort.allowSmallCohort: true",
            )
        )
    if spec.privacy.floor is not None and spec.privacy.floor > spec.cohort.minimum:
        found.append(
            Fault(
                ("spec", "privacy", "floor"),
                f"{spec.privacy.floor} exceeds spec.cohort.minimum {spec.cohort.minimum}: such rounds could only abort",
            )
        )
    proximal = ("spec", "training", "proximalMu")
    if spec.aggregation.strategy is Strategy.FEDPROX and spec.training.proximal_mu == 0:
        found.append(Fault(proximal, "strategy fedprox needs a value above 0"))
    if spec.aggregation.strategy is Strategy.FEDAVG and spec.training.proximal_mu > 0:
        found.append(
            Fault(proximal, "strategy fedavg has no proximal term; set 0, or spec.aggregation.strategy: fedprox")
        )
    if spec.rewards is not None and int(spec.rewards.per_round) > MAX_TOKEN_UNITS:
        found.append(Fault(("spec", "rewards", "perRound"), f"{spec.rewards.per_round} does not fit 128 bits"))
    return found
