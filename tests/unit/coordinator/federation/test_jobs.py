"""Whole jobs: hub, runner, post, uploads and results together with members that really mask and sign."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.unit.coordinator.federation.ground import Ground, document, serving

from fedge_coordinator.store.jobs import JobStatus
from fedge_coordinator.store.journal import RoundKey, RoundStatus
from fedge_protocol.messages import Abort, Down, NoOffer, Offer, Refusal, Result, Up

COHORT = {"minimum": 3, "target": 4, "allowSmallCohort": True, "readySeconds": 60, "phaseSeconds": 30}


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with serving(Ground(tmp_path)) as ground:
        yield ground


def offered(ground: Ground) -> list[tuple[int, int]]:
    """(round, attempt) of every offer so far."""
    return [(offer.round, offer.attempt) for offer in ground.offers() if isinstance(offer, Offer)]


def statuses(ground: Ground) -> list[tuple[int, int, RoundStatus]]:
    return [(s.key.round, s.key.attempt, s.status) for s in ground.store.journal.rounds("demo")]


async def test_a_job_runs_its_rounds_and_every_member_learns_how_each_ended(ground):
    ground.introduce()
    ground.apply(document())
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    assert statuses(ground) == [(1, 0, RoundStatus.FINISHED), (2, 0, RoundStatus.FINISHED)]
    assert [row.participants for row in ground.store.jobs.progress("demo")] == [4, 4]
    assert ground.offers()[-1] == NoOffer("demo", 3, finished=True)
    told = [(device, body) for device, body in ground.said(Down.RESULT) if isinstance(body, Result)]
    results = {(device, body.round, body.included) for device, body in told}
    assert results == {(member.name, round_, True) for member in ground.members for round_ in (1, 2)}
    assert ground.notes.refusals == []
    assert {state.state for m in ground.members for state in [ground.store.prekeys.get(m.name, 1)] if state} == {
        "burned"
    }


async def test_the_next_model_is_the_mean_of_the_members_updates(ground):
    ground.introduce()
    ground.apply(document(rollout={"rounds": 1}))
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    offer = next(offer for offer in ground.offers() if isinstance(offer, Offer))
    before = np.frombuffer(ground.store.blobs.get(offer.weights.sha256), "<f4")
    weights = ground.job().weights
    assert weights is not None
    after = np.frombuffer(ground.store.blobs.get(weights), "<f4")
    expected = np.average([m.device.update for m in ground.members], axis=0, weights=[1, 2, 3, 4])
    np.testing.assert_allclose(after - before, expected, atol=2e-3)


async def test_cancelling_a_job_aborts_its_open_round_and_tells_everybody(ground):
    ground.introduce()
    for member in ground.members:
        member.deaf_to = {Down.INBOUND}
    ground.apply(document())
    await ground.until(lambda: ground.hub.runners["demo"].phase == "masked")
    ground.steer(JobStatus.CANCELLED)
    await ground.until(lambda: isinstance(ground.offers()[-1], NoOffer))
    await ground.settle()
    assert statuses(ground) == [(1, 0, RoundStatus.ABORTED)]
    assert ground.store.journal.record(RoundKey("demo", 1, 0)) == b"cancelled"
    assert ground.said(Down.ABORT) == [(name, Abort("demo", 1, 0, "cancelled")) for name in sorted(ground.by_name)]
    assert ground.offers()[-1] == NoOffer("demo", 1, finished=True)
    assert all(ground.store.prekeys.counts(member.name).burned == 1 for member in ground.members)
    assert ground.job().next_round == 1


async def test_cancelling_before_anybody_was_ready_burns_and_aborts_as_well(ground):
    ground.introduce()
    for member in ground.members[1:]:
        member.silent = True
    ground.apply(document())
    await ground.until(lambda: ground.notes.named("input"))
    ground.steer(JobStatus.CANCELLED)
    await ground.until(lambda: isinstance(ground.offers()[-1], NoOffer))
    first = ground.members[0]
    assert ground.said(Down.ABORT) == [(first.name, Abort("demo", 1, 0, "cancelled"))]
    assert ground.store.prekeys.counts(first.name).burned == 1


async def test_a_round_left_open_by_a_crash_is_aborted_when_its_job_was_cancelled(ground, tmp_path):
    ground.introduce()
    for member in ground.members:
        member.deaf_to = {Down.INBOUND}
    ground.apply(document())
    await ground.until(lambda: ground.hub.runners["demo"].phase == "masked")
    again = Ground(tmp_path, known=ground.members)
    async with serving(again):
        again.store.jobs.set_status("demo", JobStatus.CANCELLED)
        task = again.run_job()
        await again.until(task.done)
        assert statuses(again) == [(1, 0, RoundStatus.ABORTED)]
        assert again.offers() == [NoOffer("demo", 1, finished=True)]
        assert len(again.said(Down.ABORT)) == 4


async def test_pausing_a_job_lets_the_open_round_end_and_opens_no_other(ground):
    ground.introduce()
    ground.members[0].deaf_to = {Down.INBOUND}
    ground.apply(document())
    await ground.until(lambda: ground.hub.runners["demo"].phase == "masked")
    ground.steer(JobStatus.PAUSED)
    await ground.until(lambda: [entry["kind"] for entry in ground.notes.named("input")].count("masked") == 3)
    assert ground.hub.runners["demo"].phase == "masked"
    ground.jumps(31)
    await ground.until(lambda: isinstance(ground.offers()[-1], NoOffer))
    assert statuses(ground) == [(1, 0, RoundStatus.FINISHED)]
    assert ground.offers()[-1] == NoOffer("demo", 2, finished=False)
    assert [row.dropouts for row in ground.store.jobs.progress("demo")] == [1]


async def test_the_pause_between_rounds_is_not_cut_short_by_acknowledgements(ground):
    ground.introduce()
    ground.members[0].deaf_to = {Down.RESULT}
    ground.apply(document(rollout={"rounds": 2, "pauseSeconds": 3600}))
    await ground.until(lambda: len({device for device, _ in ground.said(Down.RESULT)}) == 4)
    await ground.settle()
    assert offered(ground) == [(1, 0)]
    told = len(ground.said(Down.RESULT))
    ground.jumps(10)  # whoever missed RESULT is told again in the pause
    await ground.until(lambda: len(ground.said(Down.RESULT)) == told + 1)
    assert ground.said(Down.RESULT)[-1][0] == ground.members[0].name
    await ground.settle()
    assert offered(ground) == [(1, 0)]
    ground.jumps(3600)
    await ground.until(lambda: offered(ground) == [(1, 0), (2, 0)])


async def test_pausing_in_the_pause_ends_it(ground):
    ground.introduce()
    ground.apply(document(rollout={"rounds": 2, "pauseSeconds": 3600}))
    await ground.until(lambda: len(ground.said(Down.RESULT)) == 4)
    ground.steer(JobStatus.PAUSED)
    await ground.until(lambda: ground.offers()[-1] == NoOffer("demo", 2, finished=False))


async def test_only_the_acknowledgement_of_this_result_counts(ground):
    ground.introduce()
    member = ground.members[0]
    member.deaf_to = {Down.RESULT}
    ground.apply(document(rollout={"rounds": 1}))
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    told = [body for device, body in ground.said(Down.RESULT) if device == member.name]
    assert isinstance(told[0], Result)
    member.acknowledges(b"another message", told[0])
    await ground.settle()
    assert ground.hub.runners["demo"]._results.waiting
    ground.jumps(10)
    await ground.until(lambda: len([d for d, _ in ground.said(Down.RESULT) if d == member.name]) == 2)
    member.deaf_to = set()
    ground.jumps(10)
    await ground.until(lambda: not ground.hub.runners["demo"]._results.waiting)


async def test_too_few_ready_members_are_told_and_the_next_attempt_takes_other_prekeys(ground):
    ground.introduce()
    for member in ground.members[2:]:
        member.silent = True
    ground.apply(document())
    await ground.until(lambda: len(ground.notes.named("input")) == 2)
    ground.jumps(61)
    await ground.until(lambda: len(ground.said(Down.ABORT)) == 2)
    assert {body for _, body in ground.said(Down.ABORT)} == {Abort("demo", 1, 0, "too-few-ready")}
    assert [ground.store.prekeys.counts(m.name).burned for m in ground.members] == [1, 1, 0, 0]
    for member in ground.members:
        member.silent = False
    ground.jumps(3)
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    assert offered(ground) == [(1, 0), (1, 1), (2, 0)]


async def test_ready_closes_early_when_everybody_present_has_answered_and_there_are_enough(ground):
    ground.introduce()
    refusing, gone = ground.members[2:]
    refusing.silent = gone.silent = True
    ground.apply(document(cohort={**COHORT, "minimum": 2}))
    await ground.until(lambda: len(ground.notes.named("input")) == 2)
    await ground.settle()
    assert ground.hub.runners["demo"].phase == "ready"
    refusing.says(Up.REFUSAL, Refusal("demo", 1, 0, "not-admitted", "busy"))
    await ground.settle()
    assert ground.hub.runners["demo"].phase == "ready"
    gone.appears(online=False)
    await ground.until(lambda: ground.job().next_round == 2)
    assert [row.participants for row in ground.store.jobs.progress("demo")] == [2]


async def test_presence_that_is_shown_again_cannot_close_a_round_below_its_minimum(ground):
    """Births and deaths carry no number: a broker may show old ones. All they can do is end the waiting early."""
    ground.introduce()
    for member in ground.members[1:]:
        member.silent = True
    ground.apply(document())
    await ground.until(lambda: ground.notes.named("input"))
    for member in ground.members[1:]:
        member.appears(online=False)
    await ground.settle()
    assert ground.hub.runners["demo"].phase == "ready"
    assert ground.said(Down.ROUND) == []
