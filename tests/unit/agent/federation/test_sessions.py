"""A session as the device sees it, word by word."""

import hashlib

import msgspec
import pytest

from fedge_agent.federation.sessions import Sessions
from fedge_agent.identity.host import Host
from fedge_agent.session_record import Duplicate, SigningStoppedError
from fedge_agent.store import DeviceStore
from fedge_protocol.messages import Session, Standing, Verdict

replace = msgspec.structs.replace
NAME = b"\x07" * 16
HOST = Host(b"m" * 32, b"")


def sessions(store: DeviceStore, device: str = "d") -> Sessions:
    return Sessions(device, store, HOST, lambda size: NAME[:size])


def is_confirmed(side: Sessions) -> bool:
    return side.confirmed


def is_over(side: Sessions) -> bool:
    return side.over


def told(verdict: Verdict, **changes: object) -> Standing:
    return replace(Standing(1, NAME, b"\x01" * 16, verdict, "", 0, bytes(16), b""), **changes)


def test_a_connection_begins_with_a_number_that_is_on_disk(store):
    side = sessions(store)
    assert not side.pending
    side.begin()
    assert side.pending == Session(1, 1, NAME, bytes(16), remembers=False, machine=b"m" * 32, hardware=b"")
    side.end()
    assert not side.pending
    side.begin()
    assert side.pending is not None
    assert side.pending.counter == 2
    assert not is_confirmed(side)


def test_asked_it_proves_and_welcomed_it_is_confirmed_until_the_connection_ends(store):
    side = sessions(store)
    side.begin()
    assert side.answered(told(Verdict.PROVE))
    assert side.pending is not None
    assert (side.pending.challenge, side.pending.remembers) == (b"\x01" * 16, True)
    assert not is_confirmed(side)
    assert side.answered(told(Verdict.WELCOME))
    assert is_confirmed(side)
    assert not side.pending
    assert not side.answered(told(Verdict.PROVE))
    assert not side.answered(told(Verdict.WELCOME))
    side.end()
    assert not is_confirmed(side)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_word_on_another_session_is_nobodys(store, verdict):
    side = sessions(store)
    assert not side.answered(told(verdict))
    side.begin()
    assert not side.answered(told(verdict, session=b"\x08" * 16))
    assert (side.confirmed, side.mark) == (False, None)
    assert store.sessions.mark is None


@pytest.mark.parametrize("named", [{"counter": 5, "last": b"\x05" * 16}, {"ready": b"\x09" * 32}])
def test_a_disk_that_does_not_remember_stops_before_it_says_so(store, named):
    side = sessions(store)
    side.begin()
    assert side.answered(told(Verdict.PROVE, **named))
    assert store.sessions.mark is not None
    assert store.sessions.mark.duplicate is Duplicate.BEHIND
    assert side.pending is not None
    assert not side.pending.remembers
    assert not is_over(side), "the coordinator has to learn of it"
    assert not side.answered(told(Verdict.WELCOME))
    assert not is_confirmed(side)
    assert side.answered(told(Verdict.DUPLICATE, reason="behind"))
    assert not side.pending
    assert is_over(side)
    with pytest.raises(SigningStoppedError, match="duplicate identity"):
        store.sign_once("demo", 1, 0, "ready", b"body", lambda body: body)
    assert sessions(store).over, "after a restart too"


def test_the_ready_that_was_signed_here_is_remembered(store):
    message = store.sign_once("demo", 1, 0, "ready", b"body", lambda body: b"signed " + body)
    side = sessions(store)
    side.begin()
    side.answered(told(Verdict.PROVE, ready=hashlib.sha256(message).digest()))
    assert side.pending is not None
    assert side.pending.remembers


@pytest.mark.parametrize(
    ("reason", "duplicate"),
    [("other-host", Duplicate.OTHER_HOST), ("seen-twice", Duplicate.SEEN_TWICE), ("news", Duplicate.SEEN_TWICE)],
)
def test_what_the_operator_may_accept_is_asked_about_again_and_ends_with_a_welcome(store, reason, duplicate):
    side = sessions(store)
    side.begin()
    first = side.pending
    side.answered(told(Verdict.PROVE))
    assert side.answered(told(Verdict.DUPLICATE, reason=reason))
    assert side.mark is not None
    assert side.mark.duplicate is duplicate
    assert side.pending == first
    assert not is_over(side)
    again = sessions(store)
    assert again.mark == store.sessions.mark
    again.begin()
    again.answered(told(Verdict.PROVE))
    assert again.answered(told(Verdict.WELCOME))
    assert again.mark is None
    assert is_confirmed(again)
    store.sign_once("demo", 1, 0, "ready", b"body", lambda body: body)


def test_a_running_device_that_is_told_stops_in_the_middle_of_its_session(store):
    side = sessions(store)
    side.begin()
    side.answered(told(Verdict.PROVE))
    side.answered(told(Verdict.WELCOME))
    assert side.answered(told(Verdict.DUPLICATE, reason="seen-twice"))
    assert not is_confirmed(side)
    assert side.mark is not None


def test_other_keys_on_the_same_disk_are_another_device(store):
    side = sessions(store, "a")
    side.begin()
    side.answered(told(Verdict.PROVE, counter=9))
    side.answered(told(Verdict.DUPLICATE))
    assert is_over(side)
    assert sessions(store, "b").mark is None
