import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedge_coordinator.store import Store, open_store
from fedge_coordinator.store.errors import NotFoundError, RoundClosedError, RoundConflictError
from fedge_coordinator.store.journal import JournalEntry, RoundKey, RoundStatus

KEY = RoundKey("digits", 1, 0)


def entry(seq: int, body: bytes = b"body") -> JournalEntry:
    return JournalEntry(seq, 1_000 + seq, "ready", f"{seq:032x}", body)


def test_a_reopened_store_returns_the_open_round_with_its_entries_in_order(store: Store, path: Path):
    store.journal.open(KEY, b"plan")
    store.journal.append(KEY, [entry(1), JournalEntry(0, 5, "close", None, b"")])
    store.close()
    (found,) = open_store(path).journal.load_open()
    assert (found.key, found.plan) == (KEY, b"plan")
    assert [each.seq for each in found.entries] == [0, 1]
    assert found.entries[0] == JournalEntry(0, 5, "close", None, b"")


def test_opening_twice_with_one_plan_is_harmless_and_with_two_is_refused(store: Store):
    store.journal.open(KEY, b"plan")
    store.journal.open(KEY, b"plan")
    with pytest.raises(RoundConflictError, match="another plan"):
        store.journal.open(KEY, b"other plan")


def test_entries_of_one_call_are_all_there_or_none(store: Store):
    store.journal.open(KEY, b"plan")
    store.journal.append(KEY, [entry(0)])
    with pytest.raises(RoundConflictError):
        store.journal.append(KEY, [entry(1), entry(0, b"another")])
    assert store.journal.entries(KEY) == [entry(0)]


def test_a_finished_round_takes_no_entry_and_keeps_its_record(store: Store):
    store.journal.open(KEY, b"plan")
    assert store.journal.record(KEY) is None
    store.journal.finish(KEY, RoundStatus.FINISHED, b"record")
    store.journal.finish(KEY, RoundStatus.FINISHED, b"record")
    assert store.journal.record(KEY) == b"record"
    assert store.journal.load_open() == []
    with pytest.raises(RoundClosedError):
        store.journal.append(KEY, [entry(0)])
    with pytest.raises(RoundClosedError):
        store.journal.finish(KEY, RoundStatus.ABORTED, b"record")
    with pytest.raises(RoundClosedError):
        store.journal.open(KEY, b"plan")


def test_a_round_that_was_never_opened_takes_nothing(store: Store):
    with pytest.raises(NotFoundError):
        store.journal.append(KEY, [entry(0)])
    with pytest.raises(NotFoundError):
        store.journal.finish(KEY, RoundStatus.ABORTED, b"")


def test_a_round_cannot_end_as_open(store: Store):
    store.journal.open(KEY, b"plan")
    with pytest.raises(ValueError, match="finished or aborted"):
        store.journal.finish(KEY, RoundStatus.OPEN, b"")


def test_history_counts_attempts_and_entries(store: Store):
    store.journal.open(KEY, b"plan")
    store.journal.append(KEY, [entry(0), entry(1)])
    store.journal.finish(KEY, RoundStatus.ABORTED, b"why")
    store.journal.open(RoundKey("digits", 1, 1), b"plan")
    store.journal.open(RoundKey("other", 1, 7), b"plan")
    assert store.journal.last_attempt("digits", 1) == 1
    assert store.journal.open_attempt("digits") == RoundKey("digits", 1, 1)
    assert store.journal.open_attempt("nothing") is None
    assert store.journal.last_attempt("digits", 2) is None
    assert [(each.key.attempt, each.status, each.entries) for each in store.journal.rounds("digits")] == [
        (0, RoundStatus.ABORTED, 2),
        (1, RoundStatus.OPEN, 0),
    ]


def test_pruning_forgets_entries_and_plans_of_closed_rounds_only(store: Store):
    for number in (1, 2, 3):
        store.journal.open(RoundKey("digits", number, 0), b"plan")
        store.journal.append(RoundKey("digits", number, 0), [entry(0)])
    store.journal.finish(RoundKey("digits", 1, 0), RoundStatus.FINISHED, b"record")
    store.journal.finish(RoundKey("digits", 3, 0), RoundStatus.FINISHED, b"record")
    assert store.journal.prune("digits", before_round=3) == 1
    assert store.journal.entries(RoundKey("digits", 1, 0)) == []
    assert store.journal.record(RoundKey("digits", 1, 0)) == b"record"
    assert store.journal.entries(RoundKey("digits", 3, 0)) == [entry(0)]
    assert [(each.key.round, each.plan) for each in store.journal.load_open()] == [(2, b"plan")]


def test_calls_in_one_transaction_are_undone_together(store: Store):
    class PowerLossError(Exception):
        pass

    with contextlib.suppress(PowerLossError), store.transaction():
        store.journal.open(KEY, b"plan")
        store.journal.append(KEY, [entry(0)])
        raise PowerLossError
    assert store.journal.load_open() == []


WRITER = """
import sys
from pathlib import Path
from fedge_coordinator.store import open_store
from fedge_coordinator.store.journal import JournalEntry, RoundKey
store, key = open_store(Path(sys.argv[1])), RoundKey("digits", 1, 0)
store.journal.open(key, b"plan")
for seq in range(0, 1_000_000, 2):
    store.journal.append(key, [JournalEntry(seq + i, 0, "ready", None, bytes(1000)) for i in (0, 1)])
    print(seq + 1, flush=True)
"""


def test_a_killed_process_loses_nothing_that_append_returned_for(path: Path):
    for attempt in range(3):
        path = path.with_name(f"{attempt}.db")
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _line in range(20):
                child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
            rest = child.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else 39
        (found,) = open_store(path).journal.load_open()
        seqs = [each.seq for each in found.entries]
        assert seqs == list(range(len(seqs)))
        assert len(seqs) > acknowledged
        assert len(seqs) % 2 == 0
