import hashlib
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_agent.store import AlreadySignedError, DeviceStore, StoreUnusableError
from fedge_protocol.secagg.prekeys import generate


def seal(body: bytes) -> bytes:
    """Stands for the identity key."""
    return b"signed " + body


def now_ms() -> int:
    return 1_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[DeviceStore]:
    store = DeviceStore(path, now_ms)
    yield store
    store.close()


def in_a_process_that_dies(work: Callable[[], None]) -> int:
    """Run `work` in a child; returns how it ended: 0, or the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) * -1


def die(*_: object) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


# --- what was signed


def test_the_same_body_gives_the_stored_message_and_another_one_is_refused(store):
    first = store.sign_once("job", 1, 0, "ready", b"body", seal)
    assert first == b"signed body"
    assert store.sign_once("job", 1, 0, "ready", b"body", lambda _: b"signed anew") == first
    with pytest.raises(AlreadySignedError, match=r"ready of job round 1\.0"):
        store.sign_once("job", 1, 0, "ready", b"another body", die)
    assert store.sign_once("job", 1, 1, "ready", b"another body", seal) == b"signed another body"


def test_a_signature_that_fails_leaves_no_trace(store):
    def fail(_: bytes) -> bytes:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        store.sign_once("job", 1, 0, "ready", b"body", fail)
    assert not store.has_signed("job", 1, 0, "ready")
    assert store.sign_once("job", 1, 0, "ready", b"another", seal) == b"signed another"


keys = st.tuples(
    st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(0, 1), st.sampled_from(["ready", "masked"])
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(keys, st.binary(max_size=4), st.booleans()), max_size=30))
def test_no_key_ever_gets_two_bodies_whatever_is_asked_and_however_often_it_is_restarted(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[tuple[str, int, int, str], bytes, bool]]
):
    path = tmp_path_factory.mktemp("store") / "state.db"
    store = DeviceStore(path, now_ms)
    signed: dict[tuple[str, int, int, str], bytes] = {}
    for key, body, restart in asked:
        if restart:
            store.close()
            store = DeviceStore(path, now_ms)
        try:
            message = store.sign_once(*key, body, seal)
        except AlreadySignedError:
            assert signed[key] != body
        else:
            assert signed.setdefault(key, body) == body
            assert message == seal(body)
    assert {(s.job, s.round, s.attempt, s.kind): s.message for s in store.outbox(1000)} == {
        key: seal(body) for key, body in signed.items()
    }
    store.close()


def test_two_processes_cannot_sign_two_bodies(path):
    """The second one waits until the first has stored what it signed."""
    signing, may_go_on = threading.Event(), threading.Event()

    def slowly(body: bytes) -> bytes:
        signing.set()
        assert may_go_on.wait(10)
        return seal(body)

    def first() -> bytes:
        return DeviceStore(path, now_ms).sign_once("job", 1, 0, "ready", b"first", slowly)

    def second() -> bytes:
        return DeviceStore(path, now_ms).sign_once("job", 1, 0, "ready", b"second", die)

    DeviceStore(path, now_ms).close()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert signing.wait(10)
        other = pool.submit(second)
        may_go_on.set()
        assert one.result() == b"signed first"
        with pytest.raises(AlreadySignedError):
            other.result()


def test_a_kill_between_any_two_statements_leaves_the_whole_message_or_nothing(tmp_path):
    outcomes = set()
    for number in range(1, 40):
        path = tmp_path / f"{number}.db"
        DeviceStore(path, now_ms).close()

        def work(path: Path = path, number: int = number) -> None:
            store = DeviceStore(path, now_ms)
            count = 0

            def trace(_: str) -> None:
                nonlocal count
                count += 1
                if count == number:
                    die()

            store._db.set_trace_callback(trace)
            store.sign_once("job", 1, 0, "ready", b"first", seal)

        killed = in_a_process_that_dies(work) == signal.SIGKILL
        store = DeviceStore(path, now_ms)
        known = store.has_signed("job", 1, 0, "ready")
        outcomes.add((killed, known))
        if known:
            with pytest.raises(AlreadySignedError):
                store.sign_once("job", 1, 0, "ready", b"second", die)
            assert store.sign_once("job", 1, 0, "ready", b"first", die) == b"signed first"
        else:
            assert store.sign_once("job", 1, 0, "ready", b"second", seal) == b"signed second"
        store.close()
        if not killed:
            break
    assert outcomes == {(True, False), (False, True)}


def test_a_kill_in_the_middle_of_signing_leaves_nothing(path):
    def work() -> None:
        DeviceStore(path, now_ms).sign_once("job", 1, 0, "ready", b"first", die)

    assert in_a_process_that_dies(work) == signal.SIGKILL
    assert not DeviceStore(path, now_ms).has_signed("job", 1, 0, "ready")


def test_whatever_sign_once_returned_before_a_kill_is_there_after_it(path):
    reading, writing = os.pipe()

    def work() -> None:
        store = DeviceStore(path, now_ms)
        for number in range(10_000):
            message = store.sign_once("job", number, 0, "ready", b"%d" % number, seal)
            os.write(writing, hashlib.sha256(message).digest())

    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.close(writing)
    told = [os.read(reading, 32) for _ in range(20)]  # blocks until twenty were signed
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 32):
        told.append(more)
    os.close(reading)
    store = DeviceStore(path, now_ms)
    kept = {hashlib.sha256(signed.message).digest() for signed in store.outbox(100_000)}
    assert set(told) <= kept
    with pytest.raises(AlreadySignedError):
        store.sign_once("job", 5, 0, "ready", b"another", die)


def test_every_commit_waits_for_the_disk(store):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_acknowledgement_names_a_message_by_its_hash(store):
    for kind in ("ready", "masked"):
        store.sign_once("job", 1, 0, kind, b"body of " + kind.encode(), seal)
    store.acknowledged(bytes(32))
    assert [signed.kind for signed in store.unacknowledged(0)] == ["ready", "masked"]
    store.acknowledged(hashlib.sha256(b"signed body of ready").digest())
    assert [signed.kind for signed in store.unacknowledged(0)] == ["masked"]
    assert [(signed.kind, signed.acknowledged) for signed in store.outbox(10)] == [("masked", False), ("ready", True)]


def test_only_what_is_young_enough_is_unacknowledged_and_the_outbox_is_bounded(path):
    clock = iter([10, 20, 30])
    store = DeviceStore(path, lambda: next(clock))
    for number in (1, 2, 3):
        store.sign_once("job", number, 0, "ready", b"body", seal)
    assert [signed.round for signed in store.unacknowledged(20)] == [2, 3]
    assert [signed.round for signed in store.outbox(2)] == [3, 2]
    store.close()


# --- prekeys


def test_a_prekey_is_used_once_in_the_order_of_ids_and_only_when_published(store):
    store.add_prekeys(generate(store.next_prekey_id(), 3))
    assert store.reserve_prekey() is None
    store.prekeys_published([2, 3])
    assert [prekey.prekey_id for prekey in store.unpublished()] == [1]
    assert store.published_count() == 2
    taken = [store.reserve_prekey(), store.reserve_prekey()]
    assert [prekey.prekey_id for prekey in taken if prekey is not None] == [2, 3]
    assert store.reserve_prekey() is None
    assert store.next_prekey_id() == 4


def test_ids_are_never_given_out_again(store):
    store.add_prekeys(generate(store.next_prekey_id(), 2))
    store.burn_prekeys([1, 2])
    assert store.next_prekey_id() == 3
    with pytest.raises(sqlite3.IntegrityError):
        store.add_prekeys(generate(2, 1))


def test_a_burned_prekey_cannot_be_published_or_reserved(store):
    store.add_prekeys(generate(1, 2))
    store.burn_prekeys([1])
    store.prekeys_published([1, 2])
    reserved = store.reserve_prekey()
    assert reserved is not None
    assert reserved.prekey_id == 2
    assert store.published_count() == 0


def test_after_a_start_what_was_reserved_is_burned(path):
    before = DeviceStore(path, now_ms)
    before.add_prekeys(generate(1, 3))
    before.prekeys_published([1, 2, 3])
    assert before.reserve_prekey() is not None
    before.close()
    after = DeviceStore(path, now_ms)
    assert after.burn_reserved() == 1
    assert after.burn_reserved() == 0
    assert after.published_count() == 2
    after.close()


@pytest.mark.parametrize("how", ["burn", "burn after a start"])
def test_burned_private_halves_are_in_no_file_any_more(path, how):
    store = DeviceStore(path, now_ms)
    fresh = generate(1, 40)
    store.add_prekeys(fresh)
    store.prekeys_published(range(1, 41))
    store.round_ended("job", 1, 0, outcome="included")

    def holding(secret: bytes) -> list[str]:
        return [file.name for file in path.parent.iterdir() if secret in file.read_bytes()]

    victim = store.reserve_prekey()
    assert victim is not None
    assert holding(victim.mask_seed)
    assert holding(victim.channel_private)
    if how == "burn":
        store.burn_prekeys([victim.prekey_id])
    else:
        store.close()
        store = DeviceStore(path, now_ms)
        store.burn_reserved()
    assert holding(victim.mask_seed) == []
    assert holding(victim.channel_private) == []
    assert holding(fresh[5].mask_seed) != []
    store.close()


# --- rounds, and the file itself


def test_rounds_are_remembered_newest_first_and_the_last_word_counts(path):
    clock = iter(range(1, 100))
    store = DeviceStore(path, lambda: next(clock))
    store.round_ended("job", 1, 0, outcome="timed-out", detail="x" * 500, bytes_up=7)
    store.round_ended("job", 2, 0, outcome="included")
    store.round_ended("job", 1, 0, outcome="included", bytes_up=9)
    assert [(r.round, r.outcome, r.detail, r.bytes_up) for r in store.rounds(5)] == [
        (1, "included", "", 9),
        (2, "included", "", 0),
    ]
    assert store.outcomes() == {"included": 2}
    store.round_ended("job", 3, 0, outcome="aborted", detail="y" * 500)
    assert len(store.rounds(1)[0].detail) == 256
    store.close()


def test_nobody_else_may_read_it(path, store):
    store.sign_once("job", 1, 0, "ready", b"body", seal)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_a_damaged_or_foreign_file_is_refused_with_its_name_and_the_cure(path):
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreUnusableError, match=r"state\.db.*fedge-agent leave"):
        DeviceStore(path, now_ms)


def test_many_processes_may_make_the_database_at_once(path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: DeviceStore(path, now_ms).close(), range(16)))
    store = DeviceStore(path, now_ms)
    assert store.outbox(1) == []
    store.close()
