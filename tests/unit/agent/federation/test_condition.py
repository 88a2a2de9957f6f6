"""What a device tells of its training admission."""

import asyncio
import contextlib

import pytest

from fedge_agent.admission.machine import Decision
from fedge_agent.federation.condition import LEAST_S, ConditionTeller
from fedge_protocol.conditions import ConditionReason, ConditionState
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as State
from fedge_protocol.cose import decode, encode
from fedge_protocol.errors import RefusedError
from fedge_protocol.messages import Condition

BUSY = Decision(State.IDLE, Reason.RUN_QUEUE, "p95 wait for a CPU 9000 us is over 2000 us", 1.0)
QUIET = Decision(State.ADMITTED, Reason.QUIET, "the device is quiet", 2.0)
PAUSED = Decision(State.PAUSED, Reason.CPU_PRESSURE, "CPU pressure 0.4 is over 0.15", 3.0)


def test_a_word_that_the_protocol_does_not_have_is_refused():
    forged = encode(Condition(1, ConditionState.IDLE, ConditionReason.OWNER)).replace(b"owner", b"0wner")
    with pytest.raises(RefusedError):
        decode(forged, Condition)


class Ground:
    """A clock that only the teller's own sleeping moves."""

    def __init__(self):
        self.now_s = 100.0
        self.told = []
        self.teller = ConditionTeller(self.tell, sleep=self.sleep, clock=lambda: self.now_s)

    async def tell(self, body):
        self.told.append((self.now_s, body.state.value, body.reason.value))

    async def sleep(self, delay_s):
        await asyncio.sleep(0)
        self.now_s += delay_s

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.teller.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settle(self):
        for _ in range(10):
            await asyncio.sleep(0)


async def test_the_first_change_is_told_at_once_and_a_flicker_as_one_message_ten_seconds_later():
    async with Ground().running() as ground:
        ground.teller.changed(BUSY)
        await ground.settle()
        for decision in (QUIET, BUSY, QUIET, PAUSED):
            ground.teller.changed(decision)
        await ground.settle()
    assert ground.told == [(100.0, "idle", "run-queue"), (100.0 + LEAST_S, "paused", "cpu-pressure")]


async def test_what_was_told_already_is_not_told_again_but_in_another_session():
    async with Ground().running() as ground:
        ground.teller.changed(BUSY)
        await ground.settle()
        ground.teller.changed(BUSY)
        await ground.settle()
        assert len(ground.told) == 1
        ground.teller.again(BUSY)
        await ground.settle()
    assert [words[1:] for words in ground.told] == [("idle", "run-queue")] * 2
