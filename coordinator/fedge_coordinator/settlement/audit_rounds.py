"""The audit of one round: record against checkpoint, receipts against registrations, files against hashes."""

import dataclasses
import hashlib
from collections.abc import Callable

from fedge_coordinator.settlement.checkpoints import build_checkpoint, checkpoint_of, committee_fault
from fedge_coordinator.settlement.documents import Participant, RoundRecord, decode_document, hex_bytes, hex_text
from fedge_coordinator.settlement.errors import DocumentError
from fedge_coordinator.settlement.findings import Evidence, Findings, evidence_path, record_path, weights_path
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import Checkpoint, EncodingError, Receipt, digest, job_id, struct_hash
from fedge_protocol.merkle import MerkleError
from fedge_protocol.receipts import verify_receipt

RecomputeAggregate = Callable[[RoundRecord], bytes]
"""Returns the bytes of the aggregate that a round applied; their SHA-256 is the checkpoint's aggregateHash."""


def audit_round(
    findings: Findings,
    evidence: Evidence,
    view: PublicView,
    round_number: int,
    parent: bytes,
    model_before: bytes,
    recompute_aggregate: RecomputeAggregate | None,
) -> RoundRecord | None:
    """Check a published round whose predecessor left `parent` and `model_before`; returns its record when it is one."""
    path = record_path(round_number)
    head, published = view.checkpoints[round_number - 1]
    findings.equal(path, "the published head is the checkpoint's hash", head, struct_hash(published))
    findings.equal(path, "rounds follow one another", published.round, round_number)
    findings.equal(path, "the checkpoint continues the one before", published.parent, parent)
    _audit_weights(findings, evidence, round_number, published.model_hash)
    content = evidence.records.get(round_number)
    if content is None:
        findings.check(path, "the record is published", "missing")
        return None
    try:
        record = decode_document(RoundRecord, content)
    except DocumentError as error:
        findings.check(path, "the record is canonical", str(error))
        return None
    _audit_body(findings, view, record, published, model_before)
    _audit_signatures(findings, view, record)
    for place, participant in enumerate(record.body.participants):
        where = f"{path}:participants[{place}]"
        findings.check(where, "the receipt is a registered device's", _receipt_fault(view, record, participant))
    for name, expected in record.body.evidence.items():
        file = evidence.files.get((round_number, name))
        where = evidence_path(round_number, name)
        if file is None:
            findings.skip(where, "the evidence has the recorded hash", "not published here")
        else:
            findings.equal(where, "the evidence has the recorded hash", hex_text(_sha256(file)), expected)
    _audit_aggregate(findings, record, published, recompute_aggregate)
    return record


def _audit_body(
    findings: Findings, view: PublicView, record: RoundRecord, published: Checkpoint, model_before: bytes
) -> None:
    body, path = record.body, record_path(published.round)
    findings.equal(path, "the record is this job's", job_id(body.fleet, body.job), view.job_id)
    findings.equal(path, "the round starts from the model before", hex_bytes(body.model_before), model_before)
    findings.equal(path, "the record names the published checkpoint", checkpoint_of(record.checkpoint), published)
    try:
        computed = build_checkpoint(body, published.parent)
    except (MerkleError, EncodingError) as error:
        findings.check(path, "the checkpoint follows from the record", str(error))
        return
    differing = [
        field.name
        for field in dataclasses.fields(Checkpoint)
        if getattr(computed, field.name) != getattr(published, field.name)
    ]
    fault = f"differs in {', '.join(differing)}" if differing else None
    findings.check(path, "the checkpoint follows from the record", fault)


def _audit_signatures(findings: Findings, view: PublicView, record: RoundRecord) -> None:
    path = record_path(record.body.round)
    signed = digest(view.models_domain, checkpoint_of(record.checkpoint))
    fault = committee_fault(signed, record.signatures, view.committee, view.threshold)
    findings.check(path, "the committee signed the checkpoint", fault)


def _receipt_fault(view: PublicView, record: RoundRecord, participant: Participant) -> str | None:
    body, device = record.body, hex_bytes(participant.device)
    if participant.device not in body.cohort:
        return f"{participant.device} was not asked"
    if device not in view.devices:
        return f"{participant.device} is not registered"
    if participant.bucket >= len(body.buckets):
        return f"there is no bucket {participant.bucket}"
    bucket = body.buckets[participant.bucket]
    receipt = Receipt(
        view.job_id, body.round, bucket.attempt, hex_bytes(bucket.root), hex_bytes(participant.update_hash)
    )
    try:
        signed = verify_receipt(
            view.devices_domain, receipt, hex_bytes(participant.receipt), device, recover=recover_signer
        )
    except EncodingError as error:
        return str(error)
    return None if signed else f"{participant.device} did not sign this update"


def _audit_weights(findings: Findings, evidence: Evidence, round_number: int, model_hash: bytes) -> None:
    path, check = weights_path(round_number), "the weights have the published hash"
    weights = evidence.weights.get(round_number)
    if weights is None:
        findings.skip(path, check, "not published here")
    else:
        findings.equal(path, check, _sha256(weights), model_hash)


def _audit_aggregate(
    findings: Findings, record: RoundRecord, published: Checkpoint, recompute_aggregate: RecomputeAggregate | None
) -> None:
    path, check = record_path(published.round), "the aggregate is the sum of the signed updates"
    if recompute_aggregate is None:
        findings.skip(path, check, "no masked vectors given")
        return
    try:
        aggregate = recompute_aggregate(record)
    except (ValueError, LookupError, OSError) as error:
        findings.check(path, check, f"cannot be recomputed: {error}")
        return
    findings.equal(path, check, _sha256(aggregate), published.aggregate_hash)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
