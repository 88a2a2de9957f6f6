"""Before the coordinator has confirmed a session nothing of it is said or heard, and of a duplicate nothing at all."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from tests.unit.agent.federation.conftest import FLEET, an_offer
from tests.unit.agent.federation.ground import Ground, make_ground, serving

from fedge_agent.session_record import Duplicate, SigningStoppedError
from fedge_protocol import topics
from fedge_protocol.cose import decode, encode, open_signed
from fedge_protocol.messages import Abort, Down, NoOffer, Session, Standing, Up, Verdict
from fedge_transport.events import Connected, Disconnected, Ending


@pytest.fixture
def ground(tmp_path: Path, identity, store) -> Ground:
    """Nobody answers by itself."""
    made = make_ground(tmp_path, identity, store)
    made.wire.greeter = None
    return made


def sessions_said(ground: Ground) -> list[Session]:
    return [decode(open_signed(message)[0], Session) for message in ground.wire.messages(Up.SESSION)]


def answers(ground: Ground, verdict: Verdict, *, reason: str = "", counter: int = 0, ready: bytes = b"") -> None:
    """The coordinator's word on the newest session."""
    name = sessions_said(ground)[-1].session
    ground.hears(Down.STANDING, Standing(1, name, b"\x01" * 16, verdict, reason, counter, bytes(16), ready))


async def test_until_it_is_confirmed_only_presence_and_session_leave_and_then_all_that_waited(ground):
    async with serving(ground):
        ground.parts.prekeys.refill()
        await ground.settle()
        assert set(ground.wire.kinds()) == {"PresenceTopic", "session"}
        answers(ground, Verdict.PROVE)
        await ground.settle()
        assert [said.challenge for said in sessions_said(ground)] == [bytes(16), b"\x01" * 16]
        assert set(ground.wire.kinds()) == {"PresenceTopic", "session"}
        answers(ground, Verdict.WELCOME)
        await ground.settle()
        assert "prekeys" in ground.wire.kinds()


async def test_an_offer_that_came_before_is_taken_up_with_the_welcome_and_the_newest_word_counts(ground):
    async with serving(ground):
        ground.offered(an_offer(round_=1))
        ground.offered(an_offer(round_=2))
        ground.offered(NoOffer("other", 1, finished=False), job="other")
        ground.hears(Down.ABORT, Abort("demo", 1, 0, "cancelled"))
        await ground.settle()
        assert not ground.client.round
        answers(ground, Verdict.PROVE)
        answers(ground, Verdict.WELCOME)
        await ground.settle()
        assert ground.client.round
        assert ground.client.round.offer.round == 2
        assert ground.client.refused == {("abort", "wrong-round"): 1}, "in the order in which they came"


async def test_a_forged_word_is_refused_at_once_and_does_not_wait(ground):
    async with serving(ground):
        ground.arrives(topics.offer(FLEET, "demo"), b"\xff")
        ground.hears(Down.STANDING, NoOffer("demo", 1, finished=False))
        plain = [2, bytes(16), bytes(16), "welcome", "", 0, bytes(16), b""]
        ground.arrives(topics.down(FLEET, ground.identity.device_id, "standing"), ground.coordinator_says(plain))
        await ground.settle()
        assert ground.client.refused == {
            ("offer", "malformed"): 1,
            ("standing", "malformed"): 1,
            ("standing", "unsupported"): 1,
        }
        assert not ground.client.sessions.confirmed


async def test_every_connection_is_confirmed_anew(ground):
    async with serving(ground):
        answers(ground, Verdict.PROVE)
        answers(ground, Verdict.WELCOME)
        await ground.settle()
        assert ground.client.sessions.confirmed
        ground.wire.stream.put(Disconnected(Ending.LOST, "", 1.0))
        ground.wire.stream.put(Connected(session_present=True))
        await ground.settle()
        assert [said.counter for said in sessions_said(ground)][-1] == 2
        ground.offered(an_offer())
        await ground.settle()
        assert ground.client.round is None


@pytest.mark.parametrize("reason", ["seen-twice", "other-host"])
async def test_told_that_it_is_a_duplicate_a_device_leaves_its_round_and_signs_no_more(ground, reason):
    async with serving(ground):
        answers(ground, Verdict.PROVE)
        answers(ground, Verdict.WELCOME)
        ground.offered(an_offer())
        await ground.settle()
        assert ground.client.round is not None
        said = len(ground.wire.published)
        answers(ground, Verdict.DUPLICATE, reason=reason)
        await ground.settle()
        assert ground.client.round.outcome is not None
        assert ground.client.round.outcome.detail == "duplicate identity"
        ground.offered(an_offer(round_=2))
        ground.hears(Down.ABORT, Abort("demo", 2, 0, "cancelled"))
        await ground.settle()
        assert len(ground.wire.published) == said
        with pytest.raises(SigningStoppedError):
            ground.voice.say("demo", 2, 0, Up.READY, NoOffer("demo", 1, finished=False), valid_s=1)
        assert not ground.wire.closed, "it waits for the operator"


async def test_a_disk_that_is_behind_tells_the_coordinator_and_leaves_the_broker_to_its_twin(ground):
    async with serving(ground):
        answers(ground, Verdict.PROVE, ready=hashlib.sha256(b"of another disk").digest())
        await ground.settle()
        assert not sessions_said(ground)[-1].remembers
        assert ground.store.sessions.mark is not None
        assert ground.store.sessions.mark.duplicate is Duplicate.BEHIND
        assert not ground.wire.closed
        answers(ground, Verdict.DUPLICATE, reason="behind")
        await ground.settle()
        assert ground.wire.closed
        assert set(ground.wire.kinds()) == {"PresenceTopic", "session"}


async def test_an_unanswered_session_is_said_again_and_again_but_not_faster_than_every_second(ground):
    async with serving(ground):
        assert len(sessions_said(ground)) == 1
        async with asyncio.timeout(10):
            await ground.until(lambda: len(sessions_said(ground)) == 2)
        first, second = sessions_said(ground)
        assert first == second
        assert len({encode(said) for said in (first, second)}) == 1
