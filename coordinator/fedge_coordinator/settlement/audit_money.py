"""The audit of the money: epoch documents against rounds and roots, payments against earnings and recipients."""

import hashlib
from collections.abc import Mapping

from fedge_coordinator.settlement.documents import EpochDocument, RoundRecord, decode_document
from fedge_coordinator.settlement.epochs import build_epoch, cumulative_of, reward_root
from fedge_coordinator.settlement.errors import DocumentError
from fedge_coordinator.settlement.findings import Evidence, Findings, epoch_path
from fedge_coordinator.settlement.view import Payment, PublicView


def audit_epochs(
    findings: Findings, evidence: Evidence, view: PublicView, records: Mapping[int, RoundRecord]
) -> list[EpochDocument]:
    """Recompute every proposed reward root from the records; returns the documents that are in canonical form."""
    documents: list[EpochDocument] = []
    published = {root.epoch: root for root in view.reward_roots}
    for epoch in sorted(set(evidence.epochs) | set(published)):
        path = epoch_path(epoch)
        content = evidence.epochs.get(epoch)
        if content is None:
            findings.check(path, "the epoch's document is published", "missing")
            continue
        try:
            document = decode_document(EpochDocument, content)
        except DocumentError as error:
            findings.check(path, "the epoch's document is canonical", str(error))
            continue
        root = published.get(epoch)
        if root is None:
            findings.check(path, "the epoch's root is proposed", "neither chain nor ledger holds a root of this epoch")
        else:
            findings.equal(path, "the document has the signed hash", hashlib.sha256(content).digest(), root.data_hash)
            findings.equal(path, "the document's root and total are the signed ones", reward_root(document), root)
            fault = f"{root.total} of {view.funded}" if root.total > view.funded else None
            findings.check(path, "the pool covers the total", fault)
        previous = documents[-1] if documents else None
        findings.check(path, "the earnings follow from the rounds", _recomputed_fault(document, previous, records))
        documents.append(document)
    return documents


def audit_payments(findings: Findings, view: PublicView, documents: list[EpochDocument]) -> None:
    """Check that every payment follows from a proposed root, and that nobody was paid twice or elsewhere."""
    promised: dict[bytes, set[int]] = {}
    for document in documents:
        if document.epoch in view.dropped_epochs:
            continue
        for account, total in cumulative_of(document).items():
            promised.setdefault(account, set()).add(total)
    paid: dict[bytes, int] = {}
    for place, payment in enumerate(view.payments):
        fault = _payment_fault(view, payment, promised.get(payment.account, set()), paid.get(payment.account, 0))
        findings.check(f"payments[{place}]", "the payment is what a root promised", fault)
        paid[payment.account] = payment.cumulative
    total = sum(payment.amount for payment in view.payments)
    allowed = max((root.total for root in view.reward_roots if root.epoch not in view.dropped_epochs), default=0)
    fault = f"{total} paid, {allowed} promised" if total > allowed else None
    findings.check("payments", "the payments stay within the roots' total", fault)


def _recomputed_fault(
    document: EpochDocument, previous: EpochDocument | None, records: Mapping[int, RoundRecord]
) -> str | None:
    first = previous.rounds[-1].round + 1 if previous is not None and previous.rounds else 1
    numbers = [entry.round for entry in document.rounds]
    if not numbers or numbers != list(range(first, first + len(numbers))):
        return f"the epoch's rounds do not continue at {first} without gaps"
    missing = [number for number in numbers if number not in records]
    if missing:
        return f"no usable record of round {missing[0]}"
    expected = build_epoch(
        document.fleet,
        document.job,
        document.epoch,
        cumulative_of(previous),
        [records[number] for number in numbers],
    )
    differing = [name for name in document.__struct_fields__ if getattr(document, name) != getattr(expected, name)]
    return f"differs in {', '.join(differing)}" if differing else None


def _payment_fault(view: PublicView, payment: Payment, promised: set[int], paid_before: int) -> str | None:
    account = "0x" + payment.account.hex()
    if payment.cumulative not in promised:
        return f"no root promises {payment.cumulative} units to {account}"
    if payment.amount != payment.cumulative - paid_before:
        return f"{account} received {payment.amount} units, {payment.cumulative - paid_before} were due"
    device = view.devices.get(payment.account)
    allowed = {payment.account} if device is None else device.payouts
    if payment.recipient not in allowed:
        return f"0x{payment.recipient.hex()} received what {account} earned, and is not its payout account"
    return None
