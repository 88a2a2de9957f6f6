"""Recomputes everything that can be recomputed from published records, and compares it with the chain or ledger.

Pure: bytes and a `PublicView` in, findings out. Whether the aggregate really is the sum of the signed updates is the
business of the caller's `recompute_aggregate`, where the masked vectors and revealed seeds are published.
"""

import hashlib

from fedge_coordinator.settlement.audit_money import audit_epochs, audit_payments
from fedge_coordinator.settlement.audit_rounds import RecomputeAggregate, audit_round
from fedge_coordinator.settlement.documents import RoundRecord
from fedge_coordinator.settlement.findings import AuditReport, Evidence, Findings, record_path, weights_path
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import Genesis, struct_hash


def audit(
    evidence: Evidence,
    view: PublicView,
    *,
    round_budget: int | None = None,
    recompute_aggregate: RecomputeAggregate | None = None,
) -> AuditReport:
    """Audit one job.

    Args:
        evidence: the published files.
        view: the job as the chain or the ledger shows it.
        round_budget: token units a round pays by the job's specification, when it says so.
        recompute_aggregate: returns a round's aggregate bytes from published masked vectors; None: left unchecked.

    Returns:
        One finding a check. Any changed byte of a record, model file or epoch document makes at least one fail.
    """
    findings = Findings()
    _audit_genesis(findings, evidence, view)
    parent = struct_hash(Genesis(view.job_id, view.spec_hash, view.genesis_model_hash))
    model_before = view.genesis_model_hash
    records: dict[int, RoundRecord] = {}
    for number, (head, published) in enumerate(view.checkpoints, start=1):
        record = audit_round(findings, evidence, view, number, parent, model_before, recompute_aggregate)
        if record is not None:
            records[number] = record
            _audit_budget(findings, record, number, round_budget)
        parent, model_before = head, published.model_hash
    for number in sorted(set(evidence.records) - set(range(1, len(view.checkpoints) + 1))):
        findings.check(record_path(number), "the round is published", f"not in {view.source} (yet)")
    documents = audit_epochs(findings, evidence, view, records)
    audit_payments(findings, view, documents)
    return findings.report(view.source)


def _audit_genesis(findings: Findings, evidence: Evidence, view: PublicView) -> None:
    exists = view.spec_hash != bytes(32)
    findings.check("job", "the job exists", None if exists else f"{view.source} knows no job 0x{view.job_id.hex()}")
    path, check = weights_path(0), "the weights have the published hash"
    weights = evidence.weights.get(0)
    if weights is None:
        findings.skip(path, check, "not published here")
    else:
        findings.equal(path, check, hashlib.sha256(weights).digest(), view.genesis_model_hash)
    for number in sorted(set(evidence.weights) - set(range(len(view.checkpoints) + 1))):
        findings.check(weights_path(number), "the weights belong to a published round", f"not in {view.source} (yet)")


def _audit_budget(findings: Findings, record: RoundRecord, number: int, round_budget: int | None) -> None:
    if round_budget is not None:
        check = "the budget is the specification's"
        findings.equal(record_path(number), check, int(record.body.budget), round_budget)
