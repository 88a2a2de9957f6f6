"""What the device remembers of its sessions, across processes and crashes."""

import sqlite3
from pathlib import Path

import pytest

from fedge_agent.session_record import Duplicate, Mark, mark_in
from fedge_agent.status_line import MAX_CHARS
from fedge_agent.store import DeviceStore

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def opened(path: Path) -> DeviceStore:
    """As after a start; what an earlier process left open is left to it."""
    return DeviceStore(path, lambda: 1_000)


@pytest.mark.parametrize("duplicate", list(Duplicate))
def test_what_happened_and_its_cure_fit_into_the_units_status(duplicate: Duplicate):
    line = Mark(duplicate, 0).line
    assert len(line) <= MAX_CHARS
    assert duplicate.text in line
    assert line.endswith(duplicate.cure)


def test_a_number_is_given_out_once_also_after_a_crash_before_anybody_heard_of_it(path: Path):
    assert [opened(path).sessions.begin(name) for name in (ONE, TWO, THREE)] == [1, 2, 3]


def test_a_session_that_was_never_proved_is_forgotten_by_the_next(path: Path):
    record = opened(path).sessions
    record.begin(ONE)
    record.begin(TWO)
    assert not record.remembers(1, ONE)
    assert record.remembers(2, TWO)


def test_a_proved_session_is_remembered_until_a_later_one_is_confirmed(path: Path):
    record = opened(path).sessions
    record.prove(record.begin(ONE))
    record = opened(path).sessions
    for _ in range(5):
        record.begin(TWO)
    assert record.remembers(1, ONE)
    assert not record.remembers(1, THREE)
    record.confirmed(6)
    assert record.remembers(6, TWO)
    assert record.begin(THREE) == 7
    assert record.remembers(6, TWO)


@pytest.mark.parametrize(
    ("counter", "name", "remembers"),
    [
        (0, bytes(16), True),  # the coordinator knows none
        (1, THREE, True),  # it was restored from a backup of before
        (2, TWO, True),  # the one that it confirmed
        (2, THREE, False),  # somebody else's second one
        (3, THREE, True),  # proved, and the answer lost
        (3, ONE, False),
        (9, ONE, False),  # of a life that this disk has forgotten
    ],
)
def test_what_speaks_against_a_disk_is_a_session_that_it_could_not_have_forgotten(path, counter, name, remembers):
    record = opened(path).sessions
    record.begin(ONE)
    record.confirmed(record.begin(TWO))
    record.prove(record.begin(THREE))
    assert record.remembers(counter, name) is remembers


def test_the_first_reason_stands_but_that_a_disk_is_behind_is_final(path: Path):
    record = opened(path).sessions
    assert record.mark is None
    record.stop(Duplicate.OTHER_HOST)
    record.stop(Duplicate.SEEN_TWICE)
    found = opened(path).sessions.mark
    assert found is not None
    assert (found.duplicate, found.since_ms) == (Duplicate.OTHER_HOST, 1_000)
    record.stop(Duplicate.BEHIND)
    record.stop(Duplicate.OTHER_HOST)
    found = mark_in(path)
    assert found is not None
    assert found.duplicate is Duplicate.BEHIND
    assert found.line.startswith("duplicate identity: ")
    assert "fedge-agent leave" in found.line


def test_a_confirmed_session_ends_the_mark_on_disk_too(path: Path):
    record = opened(path).sessions
    record.stop(Duplicate.SEEN_TWICE)
    record.coordinator_knows()
    assert record.told
    record.confirmed(record.begin(ONE))
    assert record.mark is None
    assert mark_in(path) is None
    assert not opened(path).sessions.told


def test_under_new_keys_the_same_disk_is_no_duplicate_and_counts_on(path: Path):
    record = opened(path).sessions
    record.belongs_to("a")
    record.confirmed(record.begin(ONE))
    record.stop(Duplicate.BEHIND)
    record.belongs_to("a")
    assert mark_in(path) == record.mark
    assert record.mark
    record.belongs_to("b")
    assert mark_in(path) is None
    assert opened(path).sessions.mark is None
    assert record.begin(TWO) == 2


def test_nobody_is_a_duplicate_where_there_is_no_database_or_an_old_one(path: Path):
    assert mark_in(path) is None
    path.write_bytes(b"no database" * 100)
    assert mark_in(path) is None
    path.unlink()
    sqlite3.connect(path).close()
    assert mark_in(path) is None


def test_an_older_agent_in_between_loses_nothing(path: Path):
    """It knows no sessions, and sets the version of the tables back to its own."""
    store = opened(path)
    store.sessions.confirmed(store.sessions.begin(ONE))
    store.close()
    old = sqlite3.connect(path)
    old.execute("PRAGMA user_version=1")
    old.close()
    record = opened(path).sessions
    assert record.remembers(1, ONE)
    assert record.begin(TWO) == 2
