"""From a round's body to the checkpoint that the committee signs, and back."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from fedge_coordinator.settlement.documents import (
    CheckpointFields,
    CommitteeSignature,
    RoundBody,
    encode_document,
    hex_bytes,
    hex_text,
)
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.signer import Signer
from fedge_protocol.eip712 import Checkpoint, job_id
from fedge_protocol.merkle import cohort_tree, participation_tree
from fedge_protocol.secp256k1 import SignatureError


def build_checkpoint(body: RoundBody, parent: bytes) -> Checkpoint:
    """Compute the checkpoint of a round whose predecessor's struct hash is `parent`.

    Raises:
        MerkleError: when cohort or participants are not in strictly ascending order.
        EncodingError: when the weights sum to more than a uint64.
    """
    entries = [
        (hex_bytes(participant.device), participant.weight, hex_bytes(participant.update_hash))
        for participant in body.participants
    ]
    return Checkpoint(
        job_id=job_id(body.fleet, body.job),
        round=body.round,
        parent=parent,
        model_hash=hex_bytes(body.model_after),
        aggregate_hash=hex_bytes(body.aggregate_hash),
        cohort_root=cohort_tree([hex_bytes(device) for device in body.cohort]).root,
        participation_root=participation_tree(entries).root,
        metrics_hash=hashlib.sha256(encode_document(body)).digest(),
        participants=len(entries),
        total_weight=sum(weight for _, weight, _ in entries),
    )


def checkpoint_fields(checkpoint: Checkpoint) -> CheckpointFields:
    """Write a checkpoint as it is published."""
    return CheckpointFields(
        job_id=hex_text(checkpoint.job_id),
        round=checkpoint.round,
        parent=hex_text(checkpoint.parent),
        model_hash=hex_text(checkpoint.model_hash),
        aggregate_hash=hex_text(checkpoint.aggregate_hash),
        cohort_root=hex_text(checkpoint.cohort_root),
        participation_root=hex_text(checkpoint.participation_root),
        metrics_hash=hex_text(checkpoint.metrics_hash),
        participants=checkpoint.participants,
        total_weight=checkpoint.total_weight,
    )


def checkpoint_of(fields: CheckpointFields) -> Checkpoint:
    """Read a published checkpoint."""
    return Checkpoint(
        job_id=hex_bytes(fields.job_id),
        round=fields.round,
        parent=hex_bytes(fields.parent),
        model_hash=hex_bytes(fields.model_hash),
        aggregate_hash=hex_bytes(fields.aggregate_hash),
        cohort_root=hex_bytes(fields.cohort_root),
        participation_root=hex_bytes(fields.participation_root),
        metrics_hash=hex_bytes(fields.metrics_hash),
        participants=fields.participants,
        total_weight=fields.total_weight,
    )


def sign_as_committee(members: Sequence[Signer], digest: bytes) -> tuple[CommitteeSignature, ...]:
    """Return every member's signature of a digest, ascending by address as the contract wants them."""
    return tuple(
        CommitteeSignature(hex_text(member.address), hex_text(member.sign_digest(digest)))
        for member in sorted(members, key=lambda member: member.address)
    )


def committee_entries(signatures: Sequence[CommitteeSignature]) -> list[bytes]:
    """Return the signatures as `IAggregatorCommittee.verify` takes them: signer (20 bytes) || signature (65 bytes)."""
    return [hex_bytes(entry.signer) + hex_bytes(entry.signature) for entry in signatures]


def committee_fault(
    digest: bytes, signatures: Sequence[CommitteeSignature], members: frozenset[bytes], threshold: int
) -> str | None:
    """Say why the committee's signatures do not authorise `digest`, or None when they do. The contract's own rules."""
    if len(signatures) < threshold:
        return f"{len(signatures)} signatures, {threshold} are needed"
    signers = [hex_bytes(entry.signer) for entry in signatures]
    if any(before >= after for before, after in pairwise(signers)):
        return "signers do not ascend strictly"
    for signer, entry in zip(signers, signatures, strict=True):
        if signer not in members:
            return f"{entry.signer} is no member of the committee"
        try:
            if recover_signer(digest, hex_bytes(entry.signature)) != signer:
                return f"the signature is not {entry.signer}'s"
        except SignatureError as error:
            return f"the signature of {entry.signer}: {error}"
    return None
