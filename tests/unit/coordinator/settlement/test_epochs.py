"""Money over many rounds and epochs: nothing appears, nothing vanishes, everybody can prove their share."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.coordinator.settlement.fleet_fixture import (
    FLEET,
    JOB,
    JOB_ID,
    SPEC_HASH,
    job_terms,
    make_fleet,
    make_round,
)

from fedge_coordinator.settlement.checkpoints import build_checkpoint, checkpoint_fields
from fedge_coordinator.settlement.documents import (
    Bucket,
    EpochDocument,
    Participant,
    RoundBody,
    RoundRecord,
    decode_document,
    encode_document,
    hex_bytes,
    hex_text,
)
from fedge_coordinator.settlement.epochs import build_epoch, cumulative_of, reward_root, reward_tree
from fedge_coordinator.settlement.errors import DocumentError, PoolExhaustedError
from fedge_coordinator.settlement.interface import Domains
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_protocol.merkle import reward_leaf, verify_proof

ZERO = hex_text(bytes(32))
WEIGHTS = st.dictionaries(st.integers(1, 12), st.integers(1, 2**40), min_size=1, max_size=8)
ROUNDS = st.lists(st.tuples(WEIGHTS, st.integers(0, 10**30)), min_size=1, max_size=8)


def record(round_number: int, weights: dict[int, int], budget: int) -> RoundRecord:
    devices = [bytes(19) + bytes([number]) for number in sorted(weights)]
    body = RoundBody(
        fleet=FLEET,
        job=JOB,
        round=round_number,
        model_before=ZERO,
        model_after=ZERO,
        aggregate_hash=ZERO,
        cohort=tuple(hex_text(device) for device in devices),
        buckets=(Bucket(ZERO, 0),),
        participants=tuple(
            Participant(hex_text(device), weights[device[-1]], ZERO, 0, "0x" + "00" * 65) for device in devices
        ),
        budget=str(budget),
    )
    return RoundRecord(body, checkpoint_fields(build_checkpoint(body, bytes(32))), ())


@settings(deadline=None)
@given(ROUNDS, st.data())
def test_every_unit_of_every_budget_ends_in_exactly_one_account_wherever_the_epochs_are_cut(rounds, data):
    records = [record(number, weights, budget) for number, (weights, budget) in enumerate(rounds, start=1)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(records)))) | {len(records)})
    document: EpochDocument | None = None
    start = 0
    for epoch, end in enumerate(cuts, start=1):
        before = cumulative_of(document)
        document = build_epoch(FLEET, JOB, epoch, before, records[start:end])
        after = cumulative_of(document)
        assert all(after[account] >= amount for account, amount in before.items())
        assert {hex_bytes(earning.account): int(earning.amount) for earning in document.earnings} == {
            account: total - before.get(account, 0) for account, total in after.items()
        }
        start = end
    assert document is not None
    assert int(document.total) == sum(cumulative_of(document).values()) == sum(budget for _, budget in rounds)
    assert cumulative_of(document) == cumulative_of(build_epoch(FLEET, JOB, 1, {}, records))


@settings(deadline=None)
@given(ROUNDS)
def test_every_account_can_prove_what_it_earned(rounds):
    records = [record(number, weights, budget + 1) for number, (weights, budget) in enumerate(rounds, start=1)]
    document = build_epoch(FLEET, JOB, 1, {}, records)
    tree = reward_tree(JOB_ID, cumulative_of(document))
    assert tree.root == reward_root(document).root
    for index, (account, total) in enumerate(cumulative_of(document).items()):
        assert verify_proof(tree.root, reward_leaf(JOB_ID, account, total), tree.proof(index))
        assert not verify_proof(tree.root, reward_leaf(JOB_ID, account, total + 1), tree.proof(index))


@settings(deadline=None)
@given(ROUNDS)
def test_documents_survive_writing_and_reading(rounds):
    records = [record(number, weights, budget) for number, (weights, budget) in enumerate(rounds, start=1)]
    document = build_epoch(FLEET, JOB, 1, {}, records)
    assert decode_document(EpochDocument, encode_document(document)) == document
    assert [decode_document(RoundRecord, encode_document(entry)) for entry in records] == records


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{", b"{ "),
        (b'"budget":"1000"', b'"budget":"01000"'),
        (b'"budget":"1000"', b'"budget":1000'),
        (b'"budget":"1000"', b'"budget":"1000","more":1'),
        (b'"round":1', b'"round":1.0'),
        (b'"round":1', b'"round":-1'),
        (b'"round":1', b'"round":9007199254740992'),
        (b'"fleet":"lab"', b'"fleet":"Lab"'),
        (b'"fleet":"lab"', b'"fleet":"lab\\n"'),
        (b'"accuracy":0.5', b'"accuracy":0.50'),
        (b'"accuracy":0.5', b'"accuracy":1e999'),
        (b'"accuracy":0.5', b'"accuracy":null'),
        (b'"note":"held-out"', b'"note":"held\\u002dout"'),
        (b'"evidence":{}', b'"evidence":{"../up":"0x' + b"00" * 32 + b'"}'),
    ],
)
def test_a_document_has_one_way_of_being_written(before: bytes, after: bytes):
    body = make_round(make_fleet(1), 1, Domains())
    content = encode_document(body)
    assert decode_document(RoundBody, content) == body
    assert before in content
    with pytest.raises(DocumentError):
        decode_document(RoundBody, content.replace(before, after, 1))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_by_name(content: bytes):
    with pytest.raises(DocumentError):
        decode_document(RoundRecord, content)


def test_deep_nesting_is_refused_by_name():
    with pytest.raises(DocumentError):
        decode_document(RoundRecord, b"[" * 100_000)


async def test_a_ledger_never_promises_more_than_its_pool_and_goes_on_once_funded(ledger: LedgerSettlement):
    await ledger.open_job(dataclasses.replace(job_terms(funds=999), spec_hash=SPEC_HASH))
    await ledger.publish_checkpoint(make_round(make_fleet(2), 1, ledger.domains, budget=1000))
    with pytest.raises(PoolExhaustedError, match="epoch 1 would promise 1000 of 999"):
        await ledger.settle_epoch(JOB_ID)
    assert await ledger.claim_all(JOB_ID) == 0
    await ledger.fund(JOB_ID, 1)
    assert await ledger.settle_epoch(JOB_ID) is not None
    assert await ledger.claim_all(JOB_ID) == 2
