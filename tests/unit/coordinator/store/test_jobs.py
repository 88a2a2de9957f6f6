from dataclasses import replace
from pathlib import Path

import pytest

from fedge_coordinator.store import Store, open_store
from fedge_coordinator.store.errors import JobStateError, ModelChangedError, NotFoundError
from fedge_coordinator.store.jobs import JobStatus, Outcome, Progress
from fedge_protocol.jobspec import TrainingJob, spec_hash

GRAPH, FIRST, SECOND = b"g" * 32, b"1" * 32, b"2" * 32


def progress(number: int) -> Progress:
    return Progress("digits", number, 0, 9_000, 20, 2, 1_234, {"accuracy": 0.5, "loss": 1.25})


def test_a_new_document_makes_a_pending_job_at_round_one(store: Store, job: TrainingJob):
    outcome, made = store.jobs.apply(job)
    assert outcome is Outcome.CREATED
    assert (made.status, made.next_round, made.document) == (JobStatus.PENDING, 1, job)
    assert made.spec_hash == spec_hash(job)
    assert not made.started


def test_the_same_document_again_changes_nothing(store: Store, job: TrainingJob):
    _, made = store.jobs.apply(job)
    assert store.jobs.apply(job) == (Outcome.UNCHANGED, made)


def test_a_job_survives_reopening(store: Store, path: Path, job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.start("digits", GRAPH, FIRST)
    stored = store.jobs.advance(progress(1), SECOND)
    store.close()
    again = open_store(path)
    assert again.jobs.all() == [stored]
    assert again.jobs.progress("digits") == [replace(progress(1), weights=SECOND)]


def test_a_started_job_keeps_its_model(store: Store, job: TrainingJob, other_model: TrainingJob):
    store.jobs.apply(job)
    assert store.jobs.apply(other_model)[0] is Outcome.UPDATED
    store.jobs.start("digits", GRAPH, FIRST)
    with pytest.raises(ModelChangedError, match="another name"):
        store.jobs.apply(job)
    with pytest.raises(ModelChangedError):
        store.jobs.preview(job)
    assert store.jobs.get("digits").document == other_model


def test_a_preview_changes_nothing(store: Store, job: TrainingJob):
    assert store.jobs.preview(job) is Outcome.CREATED
    assert store.jobs.find("digits") is None


def test_a_finished_job_that_wants_more_rounds_is_pending_again(
    store: Store, job: TrainingJob, longer_job: TrainingJob
):
    store.jobs.apply(job)
    store.jobs.start("digits", GRAPH, FIRST)
    for number in (1, 2, 3):
        store.jobs.advance(progress(number), SECOND)
    store.jobs.set_status("digits", JobStatus.FINISHED)
    outcome, again = store.jobs.apply(longer_job)
    assert (outcome, again.status, again.next_round) == (Outcome.UPDATED, JobStatus.PENDING, 4)


def test_rounds_advance_one_by_one_and_a_repetition_is_harmless(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.start("digits", GRAPH, FIRST)
    once = store.jobs.advance(progress(1), SECOND)
    assert store.jobs.advance(progress(1), SECOND) == once
    assert (once.weights, once.next_round) == (SECOND, 2)
    with pytest.raises(JobStateError, match="awaits round 2, not 3"):
        store.jobs.advance(progress(3), SECOND)
    assert len(store.jobs.progress("digits")) == 1


def test_a_job_starts_once(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    assert store.jobs.start("digits", GRAPH, FIRST).status is JobStatus.RUNNING
    with pytest.raises(JobStateError):
        store.jobs.start("digits", GRAPH, SECOND)


def test_a_paused_job_that_starts_is_left_untouched_by_the_refusal(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.set_status("digits", JobStatus.CANCELLED)
    with pytest.raises(JobStateError):
        store.jobs.start("digits", GRAPH, FIRST)
    assert store.jobs.get("digits").graph is None


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([JobStatus.PAUSED, JobStatus.RUNNING], JobStatus.FINISHED),
        ([JobStatus.RUNNING, JobStatus.FAILED, JobStatus.RUNNING], JobStatus.PAUSED),
        ([JobStatus.RUNNING], JobStatus.CANCELLED),
    ],
)
def test_statuses_follow_one_another(store: Store, job: TrainingJob, steps: list[JobStatus], last: JobStatus):
    store.jobs.apply(job)
    for status in steps:
        store.jobs.set_status("digits", status)
    assert store.jobs.set_status("digits", last, "because").reason == "because"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (JobStatus.CANCELLED, JobStatus.RUNNING),
        (JobStatus.CANCELLED, JobStatus.PAUSED),
        (JobStatus.FAILED, JobStatus.FINISHED),
    ],
)
def test_an_ended_job_stays_ended(store: Store, job: TrainingJob, first: JobStatus, then: JobStatus):
    store.jobs.apply(job)
    store.jobs.set_status("digits", first)
    with pytest.raises(JobStateError, match=f"is {first} and cannot become {then}"):
        store.jobs.set_status("digits", then)


def test_a_cancelled_job_takes_no_other_document(store: Store, job: TrainingJob, longer_job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.set_status("digits", JobStatus.CANCELLED)
    with pytest.raises(JobStateError, match="another name"):
        store.jobs.apply(longer_job)


def test_metrics_and_settlement_are_added_later(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.start("digits", GRAPH, FIRST)
    store.jobs.advance(progress(1), SECOND)
    store.jobs.set_metrics("digits", 1, {"loss": 1.0, "recall": 0.25})
    store.jobs.set_settlement("digits", 1, checkpoint=b"c" * 32)
    store.jobs.set_settlement("digits", 1, tx_hash=b"t" * 32)
    (found,) = store.jobs.progress("digits")
    assert found.metrics == {"accuracy": 0.5, "loss": 1.0, "recall": 0.25}
    assert (found.checkpoint, found.tx_hash) == (b"c" * 32, b"t" * 32)
    with pytest.raises(NotFoundError, match="no finished round 2"):
        store.jobs.set_metrics("digits", 2, {})


def test_progress_can_be_asked_for_from_its_end(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    store.jobs.start("digits", GRAPH, FIRST)
    for number in (1, 2, 3):
        store.jobs.advance(progress(number), bytes([number]) * 32)
    assert [each.round for each in store.jobs.progress("digits", last=2)] == [2, 3]


def test_jobs_are_counted_by_status(store: Store, job: TrainingJob):
    store.jobs.apply(job)
    counts = store.jobs.counts()
    assert counts[JobStatus.PENDING] == 1
    assert sum(counts.values()) == 1
    assert set(counts) == set(JobStatus)


def test_an_unknown_job_is_named(store: Store):
    with pytest.raises(NotFoundError, match="'nope'"):
        store.jobs.set_status("nope", JobStatus.PAUSED)
