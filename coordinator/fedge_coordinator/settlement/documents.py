"""The published documents: one record a round, one document an epoch. Canonical JSON, so that bytes can be hashed.

Canonical: no white space, keys in ascending order, exactly the fields below. Hashes and addresses are lower-case
hexadecimal with 0x; token amounts are decimal strings, because readers of JSON lose digits beyond 2^53.
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from fedge_coordinator.settlement.errors import DocumentError

Hash = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{64}\Z")]
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{40}\Z")]
Signature = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{130}\Z")]
Amount = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,38})\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
FleetName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
JobName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,48}\Z")]
MetricName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_./-]{1,64}\Z")]
EvidenceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}\Z")]
MetricValue = int | float | Annotated[str, msgspec.Meta(max_length=256)]

_Document = TypeVar("_Document", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder(order="sorted")


class Participant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One accepted update. `bucket` indexes the record's buckets; `receipt` is the device's signed Receipt."""

    device: Address
    weight: Count
    update_hash: Hash
    bucket: Count
    receipt: Signature


class Bucket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One secure sum of the round: its root as the devices signed it, and the attempt that succeeded."""

    root: Hash
    attempt: Count


class RoundBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happened in a round. The checkpoint's metricsHash is the SHA-256 of this structure's canonical JSON.

    Attributes:
        model_before: SHA-256 of the weights that the round started from.
        model_after: SHA-256 of the weights that it produced.
        aggregate_hash: SHA-256 of the aggregate that was applied.
        cohort: all devices that were asked, ascending.
        buckets: the buckets that contributed.
        participants: accepted updates, ascending by device.
        budget: token units shared by this round's participants.
        metrics: names to values; nothing is paid on them.
        evidence: names of further published files to their SHA-256.
    """

    version: Literal["fedge.dev/round/v1"] = "fedge.dev/round/v1"
    fleet: FleetName
    job: JobName
    round: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    model_before: Hash
    model_after: Hash
    aggregate_hash: Hash
    cohort: tuple[Address, ...]
    buckets: tuple[Bucket, ...]
    participants: tuple[Participant, ...]
    budget: Amount
    metrics: dict[MetricName, MetricValue] = {}
    evidence: dict[EvidenceName, Hash] = {}


class CheckpointFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The EIP-712 Checkpoint that the committee signed."""

    job_id: Hash
    round: Count
    parent: Hash
    model_hash: Hash
    aggregate_hash: Hash
    cohort_root: Hash
    participation_root: Hash
    metrics_hash: Hash
    participants: Count
    total_weight: Count


class CommitteeSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member's signature."""

    signer: Address
    signature: Signature


class RoundRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the coordinator publishes of a round: the body, the checkpoint that binds it, the committee's signatures."""

    body: RoundBody
    checkpoint: CheckpointFields
    signatures: tuple[CommitteeSignature, ...]


class EpochRound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round that an epoch pays for. `head` is the struct hash of its checkpoint and so binds its whole record."""

    round: Count
    head: Hash
    budget: Amount


class Earning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One leaf of the reward tree: what a device earned in this epoch, and ever."""

    account: Address
    amount: Amount
    cumulative: Amount


class EpochDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything needed to recompute a reward root. The signed RewardRoot's dataHash is the SHA-256 of its bytes."""

    version: Literal["fedge.dev/epoch/v1"] = "fedge.dev/epoch/v1"
    fleet: FleetName
    job: JobName
    job_id: Hash
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    rule: Literal["participation-v1"] = "participation-v1"
    rounds: tuple[EpochRound, ...]
    earnings: tuple[Earning, ...]
    root: Hash
    total: Amount


def encode_document(document: msgspec.Struct) -> bytes:
    """Return the canonical JSON of a document."""
    return _encoder.encode(document)


def decode_document(kind: type[_Document], content: bytes) -> _Document:
    """Read a document that must be in canonical form.

    Raises:
        DocumentError: when it is not JSON, not of this kind, or written in another way than `encode_document` would.
    """
    try:
        document = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DocumentError(f"not a {kind.__name__}: {error}") from None
    if encode_document(document) != content:
        raise DocumentError(f"this {kind.__name__} is not in canonical form")
    return document


def hex_text(value: bytes) -> str:
    """Write bytes as the documents do."""
    return "0x" + value.hex()


def hex_bytes(value: str) -> bytes:
    """Read a field that the document's type has already checked."""
    return bytes.fromhex(value[2:])
