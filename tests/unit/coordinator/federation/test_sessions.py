"""Sessions at the hub: who is asked, who is welcome, what a duplicate costs it."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.coordinator.federation.ground import Ground, Member, document, serving

from fedge_coordinator.federation.lineage import BEHIND, OTHER_HOST, fault
from fedge_coordinator.store.device_sessions import DuplicateMark, Lineage
from fedge_protocol.cose import encode
from fedge_protocol.messages import Down, Session, Standing, Up, Verdict, Want

replace = msgspec.structs.replace
NAME = b"\x07" * 16
A, B = b"a" * 32, b"b" * 32
SAID = Session(1, 6, NAME, bytes(16), remembers=True, machine=A, hardware=A)
KNOWN = Lineage(5, b"\x05" * 16, b"", A, A)


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with serving(Ground(tmp_path)) as ground:
        yield ground


async def says(ground: Ground, member: Member, body: Session) -> list[Standing]:
    """Say it and return what is answered."""
    before = len(ground.said(Down.STANDING))
    member.says(Up.SESSION, body)
    await ground.settle()
    return [body for _, body in ground.said(Down.STANDING)[before:] if isinstance(body, Standing)]


async def proves(ground: Ground, member: Member, body: Session) -> list[Standing]:
    (asked,) = await says(ground, member, replace(body, challenge=bytes(16)))
    assert asked.verdict is Verdict.PROVE
    return await says(ground, member, replace(body, challenge=asked.challenge))


@pytest.mark.parametrize(
    ("known", "changes", "reason"),
    [
        (Lineage(), {}, ""),
        (KNOWN, {}, ""),
        (KNOWN, {"remembers": False}, BEHIND),
        (KNOWN, {"remembers": False, "counter": 900}, BEHIND),
        (KNOWN, {"counter": 5}, BEHIND),
        (KNOWN, {"counter": 1}, BEHIND),
        (KNOWN, {"hardware": B}, OTHER_HOST),
        (KNOWN, {"machine": B}, ""),
        (KNOWN, {"machine": B, "hardware": b""}, OTHER_HOST),
        (KNOWN, {"hardware": b""}, ""),
        (KNOWN, {"machine": b"", "hardware": b""}, ""),
        (Lineage(5, b"\x05" * 16, b"", A, b""), {"machine": B}, OTHER_HOST),
        (Lineage(5, b"\x05" * 16, b"", b"", b""), {"machine": B, "hardware": B}, ""),
    ],
)
def test_what_is_wrong_with_a_proof(known, changes, reason):
    assert fault(known, replace(SAID, **changes)) == reason


async def test_who_proves_its_session_is_welcome_and_so_is_the_same_proof_again(ground):
    member = ground.members[0]
    (welcome,) = await proves(ground, member, SAID)
    assert (welcome.verdict, welcome.session) == (Verdict.WELCOME, NAME)
    assert ground.store.sessions.lineage(member.name) == Lineage(6, NAME, b"", A, A)
    (again,) = await says(ground, member, SAID)
    assert again.verdict is Verdict.WELCOME
    assert ground.notes.named("device-duplicate") == []


async def test_a_session_that_a_broker_kept_is_a_question_and_no_finding(ground):
    member = ground.members[0]
    await proves(ground, member, replace(SAID, counter=3, session=b"\x03" * 16))
    await proves(ground, member, SAID)
    for _ in range(3):
        for counter, name in ((3, b"\x03" * 16), (2, b"\x02" * 16), (9, b"\x09" * 16)):
            (asked,) = await says(ground, member, replace(SAID, counter=counter, session=name, remembers=False))
            assert asked.verdict is Verdict.PROVE
    assert ground.store.sessions.duplicate(member.name) is None
    assert ground.store.sessions.lineage(member.name).counter == 6


async def test_a_proof_for_a_question_of_an_earlier_process_is_asked_anew(ground):
    member = ground.members[0]
    (asked,) = await says(ground, member, SAID)
    ground.hub._sessions = type(ground.hub._sessions)(ground.store.sessions, lambda size: b"\x33" * size)
    (again,) = await says(ground, member, replace(SAID, challenge=asked.challenge))
    assert (again.verdict, again.challenge) == (Verdict.PROVE, b"\x33" * 16)


async def test_an_unknown_version_is_unsupported_and_gets_no_answer(ground):
    plain = msgspec.to_builtins(SAID, builtin_types=(bytes,))
    ground.members[0].sends(Up.SESSION, encode([2, *plain[1:]]))
    ground.members[0].sends(Up.SESSION, encode([1, 2]))
    await ground.settle()
    assert ground.notes.refusals == [("session", "unsupported"), ("session", "malformed")]
    assert ground.wire.published == []


async def test_a_duplicate_is_told_with_its_twin_is_refused_and_nobody_waits_for_it(ground):
    member = ground.members[0]
    ground.introduce()
    await proves(ground, member, SAID)
    assert member.name in ground.hub.expected()
    answers = await proves(ground, member, replace(SAID, counter=6, session=b"\x66" * 16, remembers=False))
    assert [(each.session, each.verdict, each.reason) for each in answers] == [
        (b"\x66" * 16, Verdict.DUPLICATE, "behind"),
        (NAME, Verdict.DUPLICATE, "seen-twice"),
    ]
    assert ground.notes.named("device-duplicate") == [{"device": member.name, "reason": "behind"}]
    assert member.name not in ground.hub.expected()
    member.says(Up.WANT, Want(bytes(32)))
    await ground.settle()
    assert ground.notes.refusals == [("want", "duplicate-identity")]
    (told,) = await proves(ground, member, replace(SAID, counter=7, session=b"\x77" * 16))
    assert (told.verdict, told.reason) == (Verdict.DUPLICATE, "seen-twice")
    assert len(ground.notes.named("device-duplicate")) == 1, "said once"

    ground.store.sessions.accept(member.name)
    (welcome,) = await proves(ground, member, replace(SAID, counter=8, session=b"\x78" * 16, machine=B, hardware=B))
    assert welcome.verdict is Verdict.WELCOME
    assert ground.store.sessions.lineage(member.name).hardware == B


async def test_the_others_finish_their_round_without_a_duplicate(ground):
    """It had said READY to nothing yet; the round closes as soon as all others have answered."""
    member = ground.members[0]
    member.silent = True
    ground.introduce()
    ground.apply(document(rollout={"rounds": 1}))
    await ground.until(lambda: len(ground.hub.runners["demo"].phase) > 0 and ground.offers())
    await proves(ground, member, SAID)
    await ground.settle()
    assert ground.notes.named("round-finished") == []
    await proves(ground, member, replace(SAID, counter=2, session=b"\x66" * 16))
    await ground.until(lambda: ground.notes.named("round-finished"))
    assert ground.notes.named("round-finished")[0]["participants"] == len(ground.members) - 1


async def test_the_last_ready_that_was_taken_is_what_a_disk_must_remember(ground):
    ground.introduce()
    ground.apply(document(rollout={"rounds": 1}))
    await ground.until(lambda: ground.notes.named("round-finished"))
    for member in ground.members:
        (asked,) = await says(ground, member, SAID)
        assert len(asked.ready) == 32
        assert member.answered(asked.ready) == "", "it names a message that was acknowledged"


async def test_duplicates_outlive_the_process(ground, tmp_path):
    ground.store.sessions.mark("d", "behind")
    ground.store.sessions.mark("d", "other-host")
    fresh = type(ground.store.sessions)(ground.store.database, ground.clock)
    found = fresh.duplicate("d")
    assert isinstance(found, DuplicateMark)
    assert found.reason == "behind"
    assert fresh.accept("d")
    assert not fresh.accept("d")
    assert type(fresh)(ground.store.database, ground.clock).duplicate("d") is None
