"""How the service starts, restarts and gives up the runners of jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.coordinator.federation.ground import Ground, document, serving

from fedge_coordinator.service import _needs_runner, _Service
from fedge_coordinator.store.jobs import JobStatus
from fedge_coordinator.store.journal import RoundStatus
from fedge_protocol.messages import Down


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with serving(Ground(tmp_path)) as ground:
        yield ground


@pytest.fixture
async def changed(ground: Ground) -> AsyncIterator[Callable[[str], None]]:
    """What the API calls when a job's document or status has changed."""
    service = _Service(cast("Any", None))
    async with asyncio.TaskGroup() as group:
        service._group = group
        yield service._job_changer(ground.store, ground.hub, ground.parts)
        for task in group._tasks:  # the service is cancelled as a whole
            task.cancel()


async def test_a_new_job_gets_one_runner_and_loses_it_at_its_end(ground, changed):
    ground.introduce()
    ground.store.jobs.apply(document(rollout={"rounds": 1}))
    changed("demo")
    runner = ground.hub.runners["demo"]
    changed("demo")
    assert ground.hub.runners == {"demo": runner}
    await ground.until(lambda: not ground.hub.runners)
    assert ground.job().status is JobStatus.FINISHED
    ground.store.jobs.apply(document(rollout={"rounds": 2}))
    changed("demo")
    await ground.until(lambda: ground.job().next_round == 3)


async def test_a_job_that_fails_says_why_and_is_left_alone(ground, changed):
    ground.introduce()
    ground.store.jobs.apply(document())
    ground.parts.finisher._score = broken
    changed("demo")
    await ground.until(lambda: ground.notes.named("job-failed"))
    await ground.settle()
    assert ground.job().status is JobStatus.FAILED
    assert ground.job().reason == "ValueError: no score"
    assert ground.hub.runners == {}
    assert ground.store.journal.open_attempt("demo") is not None  # resuming continues this very round


async def test_a_failure_after_the_operator_has_paused_leaves_it_paused(ground, changed):
    ground.introduce()
    ground.store.jobs.apply(document())

    async def paused(*_: object) -> dict[str, float]:
        ground.store.jobs.set_status("demo", JobStatus.PAUSED)
        return await broken()

    ground.parts.finisher._score = paused
    changed("demo")
    await ground.until(lambda: ground.notes.named("job-failed"))
    await ground.settle()
    assert ground.job().status is JobStatus.PAUSED
    assert ground.hub.runners == {}


async def test_a_cancelled_job_gets_a_runner_only_to_end_its_open_round(ground, changed):
    ground.introduce()
    for member in ground.members:
        member.deaf_to = {Down.INBOUND}
    ground.store.jobs.apply(document())
    changed("demo")
    await ground.until(lambda: ground.hub.runners["demo"].phase == "masked")
    ground.store.jobs.set_status("demo", JobStatus.CANCELLED)
    assert _needs_runner(ground.store, "demo")
    changed("demo")
    await ground.until(lambda: not ground.hub.runners)
    assert [summary.status for summary in ground.store.journal.rounds("demo")] == [RoundStatus.ABORTED]
    assert not _needs_runner(ground.store, "demo")
    changed("demo")
    assert ground.hub.runners == {}


async def broken(*_: object) -> dict[str, float]:
    raise ValueError("no score")
