"""What finished rounds leave behind goes when it may, and no sooner; audits and restarts miss nothing of it."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.coordinator.federation.ground import Ground, document, serving
from tests.unit.coordinator.federation.test_settling import NAME, consent, settler_of

from fedge_coordinator.federation.publishing import aggregate_recomputer
from fedge_coordinator.federation.retention import Retention, Swept
from fedge_coordinator.settlement.audit import audit
from fedge_coordinator.settlement.bundle import read_bundle
from fedge_coordinator.settlement.documents import RoundRecord, decode_document, hex_bytes
from fedge_coordinator.store.errors import StoreUnavailableError
from fedge_coordinator.store.jobs import JobStatus
from fedge_coordinator.store.journal import JournalEntry, RoundKey, RoundStatus
from fedge_protocol.cose import encode
from fedge_protocol.messages import BlobRef, Masked

ROUNDS = 4


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """Four rounds have finished; nothing is published yet."""
    async with serving(Ground(tmp_path)) as ground:
        ground.introduce()
        ground.apply(document(rollout={"rounds": ROUNDS}))
        await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
        yield ground


def vectors(ground: Ground, round_: int) -> list[bytes]:
    content = ground.store.journal.record(RoundKey("demo", round_, 0))
    assert content is not None
    return [hex_bytes(each.update_hash) for each in decode_document(RoundRecord, content).body.participants]


def kept(ground: Ground) -> list[int]:
    """Rounds all of whose vectors are here; of the others there is none."""
    found = []
    for round_ in range(1, ROUNDS + 1):
        here = [ground.store.blobs.has(digest) for digest in vectors(ground, round_)]
        assert len(here) == len(ground.members)
        assert len(set(here)) == 1
        found += [round_] if here[0] else []
    return found


async def test_nothing_goes_before_it_is_published(ground):
    assert Retention(ground.store, 1).sweep(ground.job()) == Swept()
    assert kept(ground) == [1, 2, 3, 4]


async def test_older_rounds_go_with_vectors_evidence_journal_and_keys_and_the_audit_still_passes(ground):
    plans = ground.store.journal.last_finished("demo")
    await settler_of(ground, bindings=[consent(member) for member in ground.members])._step()
    assert kept(ground) == [3, 4]
    entries = {each.key.round: each.entries for each in ground.store.journal.rounds("demo")}
    assert [entries[round_] for round_ in (1, 2)] == [0, 0]
    assert entries[3] > 0
    assert ground.store.journal.last_finished("demo") == plans, "a restart tells how the last round ended"
    evidence = read_bundle(ground.folder / "published" / "demo")
    report = audit(evidence, await ground.settlement.view(NAME), recompute_aggregate=aggregate_recomputer(evidence))
    assert report.failures == ()
    assert sorted(evidence.records) == [1, 2, 3, 4]
    await settler_of(ground)._step()
    assert sorted(read_bundle(ground.folder / "published" / "demo").records) == [1, 2, 3, 4], (
        "said again after a restart"
    )


async def test_a_sweep_that_was_killed_half_way_is_done_by_the_next_process(ground):
    await settler_of(ground)._publish(ground.job())
    sweep = Retention(ground.store, 1)
    content = ground.store.journal.record(RoundKey("demo", 3, 0))
    assert content is not None
    evidence = decode_document(RoundRecord, content).body.evidence
    ground.store.blobs.remove(vectors(ground, 3)[0])  # and no more
    assert sweep.sweep(ground.job()).blobs == len(ground.members) - 1 + len(evidence)
    assert sweep.sweep(ground.job()) == Swept()
    assert Retention(ground.store, 1).sweep(ground.job()) == Swept(), "nothing is left for a later process"
    assert kept(ground) == [4]


def test_the_vectors_of_an_attempt_that_was_aborted_go_too_and_those_of_an_open_one_stay(tmp_path):
    ground = Ground(tmp_path, members=0)
    store = ground.store
    store.jobs.apply(document(rollout={"rounds": 9}))
    store.jobs.start("demo", bytes(32), bytes(32))
    taken = []
    for attempt in (0, 1):
        key = RoundKey("demo", 1, attempt)
        digest = store.blobs.put(b"vector %d" % attempt)
        store.journal.open(key, b"plan")
        masked = encode(Masked(bytes(32), BlobRef(digest, 8), bytes(65)))
        store.journal.append(key, [JournalEntry(0, 1, "ready", "d", b"?"), JournalEntry(1, 2, "masked", "d", masked)])
        taken.append(digest)
        if attempt == 0:
            store.journal.finish(key, RoundStatus.ABORTED, b"too-few-signatures")
    job = dataclasses.replace(store.jobs.get("demo"), next_round=5)
    assert Retention(store, 1).sweep(job) == Swept(blobs=1, entries=2)
    assert [store.blobs.has(digest) for digest in taken] == [False, True]


async def test_a_file_that_cannot_be_deleted_ends_no_settlement(ground, monkeypatch):
    def refused(_digest: bytes) -> bool:
        raise StoreUnavailableError("read-only file system")

    settler = settler_of(ground)
    monkeypatch.setattr(ground.store.blobs, "remove", refused)
    await settler._step()
    assert kept(ground) == [1, 2, 3, 4]
    assert [row.checkpoint is not None for row in ground.store.jobs.progress("demo")] == [True] * ROUNDS


def test_at_least_the_last_round_is_kept(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        Retention(Ground(tmp_path, members=0).store, 0)
