"""Every body that crosses the broker, as a typed and bounded value. `docs/protocol.md` tells their order.

All are arrays on the wire (`array_like`): compact, and an unknown field is an error rather than a surprise. Up: device
to coordinator. Down: coordinator to device. The sender, fleet and kind are bound by `cose.context_of`, not repeated.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedge_protocol.conditions import ConditionReason, ConditionState
from fedge_protocol.ids import (
    PRINTABLE_PATTERN,
    Address20,
    Counter,
    DeviceId,
    Hash32,
    JobName,
    Key32,
    Name,
    Nonce16,
    Signature64,
    Signature65,
    Small,
)

PROTOCOL_VERSION: Final = 1
MAX_BUCKET: Final = 128
MAX_COHORT: Final = 4096
MAX_PREKEYS: Final = 64
MAX_BLOB_BYTES: Final = 16 * 1024 * 1024
COORDINATOR: Final = "coordinator"

Index = Annotated[int, Meta(ge=0, lt=MAX_BUCKET)]
Indices = Annotated[tuple[Index, ...], Meta(max_length=MAX_BUCKET)]
Sealed = Annotated[bytes, Meta(min_length=16, max_length=256)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
ReasonText = Annotated[str, Meta(pattern=r"^[a-z-]{1,32}\Z")]
Detail = Annotated[str, Meta(max_length=256, pattern=PRINTABLE_PATTERN)]
UpTo32 = Annotated[bytes, Meta(max_length=32)]
"""A hash of 32 bytes, or nothing."""


class Up(StrEnum):
    """Kinds a device publishes under `device/{device}/up/`."""

    PREKEYS = "prekeys"
    READY = "ready"
    SHARES = "shares"
    MASKED = "masked"
    CHUNK = "chunk"
    SURVIVOR = "survivor"
    UNMASK = "unmask"
    WANT = "want"
    REFUSAL = "refusal"
    ACK = "ack"
    SESSION = "session"
    CONDITION = "condition"


class Down(StrEnum):
    """Kinds the coordinator publishes under `device/{device}/down/`."""

    ACK = "ack"
    ROUND = "round"
    INBOUND = "inbound"
    SURVIVORS = "survivors"
    UNMASK_REQUEST = "unmask-request"
    RESULT = "result"
    ABORT = "abort"
    STANDING = "standing"


class Verdict(StrEnum):
    """What the coordinator makes of a session of a device."""

    PROVE = "prove"
    WELCOME = "welcome"
    DUPLICATE = "duplicate"


OFFER_KIND: Final = "offer"
PRESENCE_KIND: Final = "presence"


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message body."""


class BlobRef(Body, frozen=True):
    """Bytes that are fetched by their name: SHA-256 and size."""

    sha256: Hash32
    size: Annotated[int, Meta(ge=1, le=MAX_BLOB_BYTES)]


class Training(Body, frozen=True):
    """What a device does before it answers an offer. Units: epochs, plain SGD steps, L2 norms."""

    source: Name
    epochs: Annotated[int, Meta(ge=1, le=1000)]
    learning_rate: Positive
    momentum: Annotated[float, Meta(ge=0, lt=1)]
    proximal_mu: NonNegative
    clip_norm: Positive
    max_samples: Annotated[int, Meta(ge=1, le=10_000_000)]
    weight_unit: Annotated[int, Meta(ge=1, le=1_000_000)]
    weight_max: Annotated[int, Meta(ge=1, le=1024)]


class Cohort(Body, frozen=True):
    """Who may take part: counts of devices, and whether fewer than the secure floor is allowed at all."""

    minimum: Annotated[int, Meta(ge=2, le=MAX_COHORT)]
    target: Annotated[int, Meta(ge=2, le=MAX_COHORT)]
    allow_small: bool


class Offer(Body, frozen=True):
    """Retained: the open round of a job. `ready_deadline` is Unix seconds on the coordinator's clock.

    `seed_commitment` is SHA-256 of the bucket seed that ROUND reveals; `seal_key` an X25519 key of this round for
    confidential parts (HPKE); `chain_id` and `registry` name the EIP-712 domain of the receipts (both zero without a
    chain).
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    job: JobName
    job_id: Hash32
    round: Counter
    attempt: Small
    spec_hash: Hash32
    graph: BlobRef
    weights: BlobRef
    dim: Annotated[int, Meta(ge=1, le=8_000_000)]
    training: Training
    cohort: Cohort
    suite: Annotated[int, Meta(ge=1, le=2)]
    seed_commitment: Hash32
    seal_key: Key32
    chain_id: Counter
    registry: Address20
    ready_deadline: Counter
    phase_seconds: Annotated[int, Meta(ge=1, le=3600)]


class NoOffer(Body, frozen=True):
    """Retained in place of an offer when no round is open, so that a device knows it is not waiting in vain."""

    job: JobName
    next_round: Counter
    finished: bool


class PrekeyStatement(Body, frozen=True):
    """One one-time key pair of a device, signed on its own (`prekey_statement`), so that peers can check it alone."""

    prekey_id: Counter
    mask_public: Key32
    channel_public: Key32
    signature: Signature64


class Prekeys(Body, frozen=True):
    """Up: fresh prekeys. A device uses its prekeys in the order of their ids."""

    statements: Annotated[tuple[PrekeyStatement, ...], Meta(min_length=1, max_length=MAX_PREKEYS)]


class Ready(Body, frozen=True):
    """Up: "my update is trained and waiting". `weight` is the public weight class, 1 to `weight_max`."""

    job: JobName
    round: Counter
    attempt: Small
    prekey_id: Counter
    weight: Annotated[int, Meta(ge=1, le=1024)]
    nonce: Nonce16
    versions: tuple[Small, Small]


class Seat(Body, frozen=True):
    """One member of a bucket, as its peers see it. `certificate` is the device's X.509 certificate (DER)."""

    device: DeviceId
    certificate: Annotated[bytes, Meta(min_length=64, max_length=4096)]
    prekey: PrekeyStatement
    weight: Annotated[int, Meta(ge=1, le=1024)]


class Entrant(Body, frozen=True):
    """One accepted READY: enough to recompute every bucket."""

    device: DeviceId
    nonce: Nonce16


class Round(Body, frozen=True):
    """Down, the same bytes for every member of a bucket; its SHA-256 is the context that everything after is bound to.

    `entrants` sorted by device is the closed READY set, `seed` opens the offer's commitment; buckets are
    F(seed, entrants). `seats` is this bucket, sorted by device.
    """

    job: JobName
    round: Counter
    attempt: Small
    offer_hash: Hash32
    model_hash: Hash32
    seed: Key32
    entrants: Annotated[tuple[Entrant, ...], Meta(min_length=2, max_length=MAX_COHORT)]
    bucket: Small
    seats: Annotated[tuple[Seat, ...], Meta(min_length=2, max_length=MAX_BUCKET)]
    threshold: Annotated[int, Meta(ge=2, le=MAX_BUCKET)]
    levels: Annotated[int, Meta(ge=1, le=32767)]
    coordinate_range: Positive
    rotation_seed: Key32


class Shares(Body, frozen=True):
    """Up, E1: one sealed pair of shares for every peer (in seat order, own seat left out)."""

    context: Hash32
    commitment: Hash32
    sealed: Annotated[tuple[Sealed, ...], Meta(max_length=MAX_BUCKET)]


class Inbound(Body, frozen=True):
    """Down, E2: who shared (U1, seat indices), and what they sealed for this device (in the order of U1 without it)."""

    context: Hash32
    sharers: Indices
    sealed: Annotated[tuple[Sealed, ...], Meta(max_length=MAX_BUCKET)]


class Masked(Body, frozen=True):
    """Up, E2: the manifest of the masked vector, which follows as chunks, and the receipt (secp256k1) over its hash."""

    context: Hash32
    vector: BlobRef
    receipt: Signature65


class Survivors(Body, frozen=True):
    """Down, E3: whose vectors are in the sum (U2, seat indices) and the SHA-256 of each, in that order."""

    context: Hash32
    survivors: Indices
    vectors: Annotated[tuple[Hash32, ...], Meta(max_length=MAX_BUCKET)]


class Survivor(Body, frozen=True):
    """Up, E3: this device's signature over the survivor set (`survivors_statement`); given once."""

    context: Hash32
    signature: Signature64


class SignedBy(Body, frozen=True):
    """One survivor's signature, relayed."""

    seat: Index
    signature: Signature64


class UnmaskRequest(Body, frozen=True):
    """Down, E4: at least `threshold` signatures over one survivor set."""

    context: Hash32
    signatures: Annotated[tuple[SignedBy, ...], Meta(max_length=MAX_BUCKET)]


class UnmaskAnswer(Body, frozen=True):
    """One share: of the self mask of a survivor, or of the mask key of one that dropped out. Never both."""

    seat: Index
    of_mask_key: bool
    share: Annotated[bytes, Meta(min_length=20, max_length=20)]


class UnmaskShares(Body, frozen=True):
    """What `Unmask.sealed` holds."""

    answers: Annotated[tuple[UnmaskAnswer, ...], Meta(max_length=MAX_BUCKET)]


class Unmask(Body, frozen=True):
    """Up, E4: the unmasking shares, sealed by HPKE to the offer's `seal_key` with the context as info."""

    context: Hash32
    sealed: Annotated[bytes, Meta(min_length=48, max_length=16 * 1024)]


class Result(Body, frozen=True):
    """Down: how the round ended for this device. `weights` is the checkpoint that the round made."""

    job: JobName
    round: Counter
    attempt: Small
    included: bool
    weights: BlobRef
    participants: Small


class Abort(Body, frozen=True):
    """Down: this bucket or round is over without a result."""

    job: JobName
    round: Counter
    attempt: Small
    reason: ReasonText


class Ack(Body, frozen=True):
    """Both ways: the message with this SHA-256 is committed (`refused` empty) or refused for good."""

    kind: Annotated[str, Meta(pattern=r"^[a-z-]{1,24}\Z")]
    round: Counter
    attempt: Small
    sha256: Hash32
    refused: Annotated[str, Meta(pattern=r"^[a-z-]{0,32}\Z")]


class Want(Body, frozen=True):
    """Up: a blob that the broker no longer holds."""

    sha256: Hash32


class Refusal(Body, frozen=True):
    """Up: this device does not take part in the round, and why."""

    job: JobName
    round: Counter
    attempt: Small
    reason: ReasonText
    detail: Detail


class Presence(Body, frozen=True):
    """Retained birth, or last will. `features` names what this device's kernel layer lacks, as a bit mask."""

    online: bool
    boot: Nonce16
    version: Name
    missing_features: Counter


class Session(Body, frozen=True):
    """Up: a connection of this device begins, of which the coordinator is to know before anything else is said in it.

    `counter` was stored by the device before this was signed and is never used again; `session` is random. `challenge`
    is that of the STANDING which asked for this proof, zeros as long as none did; `remembers`: this device's memory
    holds all that the STANDING named. `machine` and `hardware` are keyed hashes of what tells this machine from
    others, empty when there is nothing to read.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    counter: Annotated[int, Meta(ge=1, le=2**53)]
    session: Nonce16
    challenge: Nonce16
    remembers: bool
    machine: UpTo32
    hardware: UpTo32


class Standing(Body, frozen=True):
    """Down: the answer to SESSION. `reason` says why an identity is a duplicate.

    `counter` and `last` are the newest session of this device that the coordinator knows (0 and zeros: none), `ready`
    is the SHA-256 of its newest READY (empty: none). A device that does not remember them is a copy of itself.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    session: Nonce16
    challenge: Nonce16
    verdict: Verdict
    reason: Annotated[str, Meta(pattern=r"^[a-z-]{0,32}\Z")]
    counter: Counter
    last: Nonce16
    ready: UpTo32


class Condition(Body, frozen=True):
    """Up: where this device's training admission stands, and why. For people and metrics: nothing is decided by it."""

    version: Annotated[int, Meta(ge=1, le=1)]
    state: ConditionState
    reason: ConditionReason


def prekey_statement(fleet: str, device: str, prekey_id: int, mask_public: bytes, channel_public: bytes) -> bytes:
    """What a device signs to vouch for one prekey."""
    return b"fedge/v1 prekey\x00" + f"{fleet}/{device}/{prekey_id}".encode() + b"\x00" + mask_public + channel_public


def survivors_statement(context: bytes, survivors: tuple[int, ...], vectors: tuple[bytes, ...]) -> bytes:
    """What a device signs, once a round, to say which vectors it will help to unmask."""
    return b"fedge/v1 survivors\x00" + context + bytes(survivors) + b"\x00" + b"".join(vectors)
