"""An audit is worth what it refuses: every changed byte, and every lie that keeps the bytes consistent."""

import dataclasses
import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.coordinator.settlement.fleet_fixture import JOB_ID, bindings, job_terms, make_fleet, make_round

from fedge_coordinator.settlement.audit import audit
from fedge_coordinator.settlement.bundle import read_bundle, write_evidence
from fedge_coordinator.settlement.documents import RoundRecord, decode_document, encode_document, hex_bytes, hex_text
from fedge_coordinator.settlement.errors import LedgerCorruptError
from fedge_coordinator.settlement.findings import AuditReport, Evidence, Status
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.settlement.ledger_view import read_ledger
from fedge_coordinator.settlement.view import Payment, PublicView

AGGREGATES = {number: b"aggregate %d" % number for number in (1, 2, 3)}


@pytest.fixture
async def view(ledger: LedgerSettlement, published: Path) -> PublicView:
    return await ledger.view(JOB_ID)


@pytest.fixture
def evidence(published: Path) -> Evidence:
    return read_bundle(published)


def with_files(evidence: Evidence, kind: str, files: dict[int, bytes]) -> Evidence:
    return Evidence(
        records=files if kind == "records" else evidence.records,
        weights=files if kind == "weights" else evidence.weights,
        epochs=files if kind == "epochs" else evidence.epochs,
    )


def failed(report: AuditReport) -> set[str]:
    return {f"{finding.path} | {finding.check}" for finding in report.failures}


def test_an_honest_bundle_passes_and_everything_could_be_checked(evidence: Evidence, view: PublicView):
    report = audit(evidence, view, recompute_aggregate=lambda record: AGGREGATES[record.body.round])
    assert report.failures == ()
    assert report.complete
    assert len(report.findings) > 60


def test_without_masked_vectors_the_report_says_that_the_sums_are_unchecked(evidence: Evidence, view: PublicView):
    report = audit(evidence, view)
    assert report.ok
    assert not report.complete
    assert sum(finding.status == Status.UNCHECKED for finding in report.findings) == 3


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_in_any_published_file_makes_the_audit_fail(evidence: Evidence, view: PublicView, data):
    kind = data.draw(st.sampled_from(["records", "weights", "epochs"]))
    files: dict[int, bytes] = dict(getattr(evidence, kind))
    number = data.draw(st.sampled_from(sorted(files)))
    position = data.draw(st.integers(0, len(files[number]) - 1))
    changed = bytearray(files[number])
    changed[position] ^= data.draw(st.integers(1, 255))
    files[number] = bytes(changed)
    assert not audit(with_files(evidence, kind, files), view).ok


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_digit_changed_for_another_digit_makes_the_audit_fail(evidence: Evidence, view: PublicView, data):
    kind = data.draw(st.sampled_from(["records", "epochs"]))
    files: dict[int, bytes] = dict(getattr(evidence, kind))
    number = data.draw(st.sampled_from(sorted(files)))
    digits = [place for place, byte in enumerate(files[number]) if chr(byte).isdigit()]
    position = data.draw(st.sampled_from(digits))
    changed = bytearray(files[number])
    changed[position] = data.draw(st.sampled_from([digit for digit in b"0123456789" if digit != changed[position]]))
    files[number] = bytes(changed)
    assert not audit(with_files(evidence, kind, files), view).ok


@pytest.mark.parametrize("cut", [1, 100])
def test_a_file_cut_short_or_missing_fails(evidence: Evidence, view: PublicView, cut):
    short = dataclasses.replace(evidence, records={**evidence.records, 2: evidence.records[2][:-cut]})
    assert "records/000002.json | the record is canonical" in failed(audit(short, view))
    gone = dataclasses.replace(evidence, records={1: evidence.records[1], 3: evidence.records[3]})
    assert "records/000002.json | the record is published" in failed(audit(gone, view))
    unpaid = dataclasses.replace(evidence, epochs={1: evidence.epochs[1]})
    assert "epochs/000002.json | the epoch's document is published" in failed(audit(unpaid, view))


def test_records_weights_and_epochs_that_the_ledger_does_not_know_fail(evidence: Evidence, view: PublicView):
    shorter = dataclasses.replace(view, checkpoints=view.checkpoints[:2], reward_roots=view.reward_roots[:1])
    report = failed(audit(evidence, shorter))
    assert "records/000003.json | the round is published" in report
    assert "weights/000003.f32 | the weights belong to a published round" in report
    assert "epochs/000002.json | the epoch's root is proposed" in report


def test_weights_that_are_not_published_are_said_to_be_unchecked(evidence: Evidence, view: PublicView):
    report = audit(dataclasses.replace(evidence, weights={}), view)
    assert report.ok
    assert [finding.path for finding in report.findings if finding.check.startswith("the weights")] == [
        f"weights/00000{number}.f32" for number in range(4)
    ]


def test_another_genesis_model_breaks_the_chain_of_parents(evidence: Evidence, view: PublicView):
    report = failed(audit(evidence, dataclasses.replace(view, genesis_model_hash=b"\1" * 32)))
    assert "records/000001.json | the checkpoint continues the one before" in report
    assert "records/000001.json | the round starts from the model before" in report


def test_two_rounds_that_changed_places_fail(evidence: Evidence, view: PublicView):
    first, second, third = view.checkpoints
    report = failed(audit(evidence, dataclasses.replace(view, checkpoints=(second, first, third))))
    assert "records/000001.json | rounds follow one another" in report


def test_a_participant_that_is_not_registered_fails(evidence: Evidence, view: PublicView):
    record = decode_document(RoundRecord, evidence.records[1])
    device = hex_bytes(record.body.participants[2].device)
    devices = {address: known for address, known in view.devices.items() if address != device}
    report = failed(audit(evidence, dataclasses.replace(view, devices=devices)))
    assert "records/000001.json:participants[2] | the receipt is a registered device's" in report


def test_signatures_of_another_committee_fail(evidence: Evidence, view: PublicView):
    report = failed(audit(evidence, dataclasses.replace(view, committee=frozenset({b"\1" * 20}))))
    assert "records/000001.json | the committee signed the checkpoint" in report
    few = failed(audit(evidence, dataclasses.replace(view, threshold=4)))
    assert "records/000001.json | the committee signed the checkpoint" in few


def test_receipts_do_not_count_for_another_contract(evidence: Evidence, view: PublicView):
    domain = dataclasses.replace(view.devices_domain, chain_id=1)
    report = audit(evidence, dataclasses.replace(view, devices_domain=domain))
    assert len(report.failures) == 12


async def test_a_coordinator_that_signs_a_made_up_participant_is_caught_by_the_receipt(ledger: LedgerSettlement):
    fleet = make_fleet(3)
    await ledger.register_devices(bindings(fleet, ledger.domains))
    await ledger.open_job(job_terms())
    honest = make_round(fleet, 1, ledger.domains)
    forged = msgspec.structs.replace(honest.participants[1], update_hash=hex_text(b"\7" * 32))
    lie = msgspec.structs.replace(honest, participants=(honest.participants[0], forged, honest.participants[2]))
    record = await ledger.publish_checkpoint(lie)
    report = audit(Evidence({1: encode_document(record)}, {}, {}), await ledger.view(JOB_ID))
    assert failed(report) == {"records/000001.json:participants[1] | the receipt is a registered device's"}


def test_a_payment_to_a_stranger_twice_or_beyond_the_root_fails(evidence: Evidence, view: PublicView):
    first = view.payments[0]
    checks = {
        "stranger": dataclasses.replace(first, recipient=b"\7" * 20),
        "too much": dataclasses.replace(first, amount=first.amount + 1),
        "not promised": dataclasses.replace(first, cumulative=first.cumulative + 1, amount=first.amount + 1),
    }
    for lie in checks.values():
        report = failed(audit(evidence, dataclasses.replace(view, payments=(lie, *view.payments[1:]))))
        assert "payments[0] | the payment is what a root promised" in report
    twice = dataclasses.replace(view, payments=(*view.payments, view.payments[-1]))
    assert "payments | the payments stay within the roots' total" in failed(audit(evidence, twice))
    extra = Payment(b"\7" * 20, b"\7" * 20, 1, 1)
    assert not audit(evidence, dataclasses.replace(view, payments=(extra,))).ok


def test_a_pool_that_does_not_cover_its_roots_fails(evidence: Evidence, view: PublicView):
    report = failed(audit(evidence, dataclasses.replace(view, funded=10)))
    assert "epochs/000002.json | the pool covers the total" in report


def test_the_budget_is_held_against_the_specification(evidence: Evidence, view: PublicView):
    report = audit(evidence, view, round_budget=1001)
    assert failed(report) == {
        "records/000002.json | the budget is the specification's",
        "records/000003.json | the budget is the specification's",
    }


def test_an_aggregate_that_is_not_the_sum_fails(evidence: Evidence, view: PublicView):
    report = audit(evidence, view, recompute_aggregate=lambda record: b"another sum")
    assert {finding.path for finding in report.failures} == {f"records/00000{number}.json" for number in (1, 2, 3)}

    def broken(record: RoundRecord) -> bytes:
        raise ValueError(f"round {record.body.round} has no seeds")

    assert "round 1 has no seeds" in audit(evidence, view, recompute_aggregate=broken).failures[0].detail


async def test_further_evidence_is_held_against_the_hash_in_the_record(ledger: LedgerSettlement, tmp_path: Path):
    fleet = make_fleet(2)
    await ledger.register_devices(bindings(fleet, ledger.domains))
    await ledger.open_job(job_terms())
    body = make_round(fleet, 1, ledger.domains)
    body = msgspec.structs.replace(body, evidence={"bucket-0.cbor": hex_text(hashlib.sha256(b"vectors").digest())})
    record = await ledger.publish_checkpoint(body)
    view = await ledger.view(JOB_ID)
    assert not audit(Evidence({1: encode_document(record)}, {}, {}), view).complete
    write_evidence(tmp_path, 1, "bucket-0.cbor", b"vectors")
    files = read_bundle(tmp_path).files
    assert audit(Evidence({1: encode_document(record)}, {}, {}, files), view).ok
    files = {(1, "bucket-0.cbor"): b"Vectors"}
    assert not audit(Evidence({1: encode_document(record)}, {}, {}, files), view).ok


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_of_the_ledger_is_found(ledger: LedgerSettlement, published: Path, data):
    lines = ledger.lines()
    members = frozenset(read_ledger(lines, JOB_ID, _members(ledger), 2).committee)
    number = data.draw(st.integers(0, len(lines) - 1))
    changed = bytearray(lines[number])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    lines[number] = bytes(changed)
    with pytest.raises(LedgerCorruptError, match=rf"ledger line {number}\b|ledger line {number + 1} "):
        read_ledger(lines, JOB_ID, members, 2)


def test_a_line_left_out_of_the_ledger_is_found(ledger: LedgerSettlement, published: Path):
    lines = ledger.lines()
    for gone in range(len(lines) - 1):
        with pytest.raises(LedgerCorruptError, match=rf"ledger line {gone} does not follow"):
            read_ledger(lines[:gone] + lines[gone + 1 :], JOB_ID, _members(ledger), 2)


def test_a_ledger_written_by_somebody_else_is_refused(ledger: LedgerSettlement, published: Path):
    with pytest.raises(LedgerCorruptError, match="line 0 is not signed by a committee member"):
        read_ledger(ledger.lines(), JOB_ID, frozenset({b"\1" * 20}), 1)


def _members(ledger: LedgerSettlement) -> frozenset[bytes]:
    return frozenset(member.address for member in ledger._committee)
