import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_agent.kernel.budget_file import carried, read, today, write
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_records import Budget

DAY = 20_800
limits = st.integers(1, 1 << 40)
budgets = st.builds(Budget, st.integers(-(1 << 20), 1 << 40), limits, st.integers(20_100, 30_000))


def test_a_day_begins_at_midnight_utc():
    assert today(86_400 * DAY - 1) == DAY - 1
    assert today(86_400 * DAY) == DAY


def test_a_new_day_fills_the_budget_up():
    assert carried(Budget(-5, 100, DAY), 100, DAY + 1) == Budget(100, 100, DAY + 1)


def test_the_same_day_goes_on_with_what_is_left():
    assert carried(Budget(30, 100, DAY), 100, DAY) == Budget(30, 100, DAY)


def test_a_changed_limit_changes_what_is_left_by_as_much():
    assert carried(Budget(30, 100, DAY), 150, DAY).left_bytes == 80
    assert carried(Budget(30, 100, DAY), 50, DAY).left_bytes == -20


def test_a_clock_that_was_never_set_neither_fills_nor_moves_the_day():
    assert carried(Budget(0, 100, DAY), 100, 3) == Budget(0, 100, DAY)


def test_a_day_saved_by_a_clock_far_ahead_does_not_lock_the_device_for_years():
    back = carried(Budget(0, 100, DAY + 20_000), 100, DAY)
    assert back == Budget(0, 100, DAY)
    assert carried(back, 100, DAY + 1).left_bytes == 100


@given(budgets, limits, st.integers(0, 40_000))
def test_what_is_left_never_exceeds_the_limit_and_never_grows_within_a_day(prior, limit, day):
    now = carried(prior, limit, day)
    assert now.left_bytes <= now.limit_bytes == limit
    if day <= prior.day and limit <= prior.limit_bytes:
        assert now.left_bytes <= max(prior.left_bytes, prior.left_bytes + limit - prior.limit_bytes)


@settings(deadline=None)  # it waits for the disk
@given(budgets)
def test_a_saved_budget_is_read_back(tmp_path_factory, budget):
    path = tmp_path_factory.mktemp("budget") / "deep" / "fedge.budget"
    write(path, budget)
    write(path, budget)
    assert read(path) == budget
    assert [entry.name for entry in path.parent.iterdir()] == ["fedge.budget"]


def test_nothing_saved_is_no_error(tmp_path):
    assert read(tmp_path / "none") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"version": 2}',
        '{"version": 1, "left_bytes": "x", "limit_bytes": 1, "day": 1}',
        json.dumps({"version": 1, "left_bytes": 1 << 80, "limit_bytes": 1, "day": 1}),
    ],
)
def test_a_damaged_file_is_refused_with_the_cure(tmp_path, text):
    path = tmp_path / "budget"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"remove .* to begin with a full budget"):
        read(path)


def test_a_file_that_others_could_have_written_is_refused(tmp_path):
    path = tmp_path / "budget"
    write(path, Budget(1, 2, 3))
    path.chmod(0o666)
    with pytest.raises(PolicyError, match="others may write"):
        read(path)
    path.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(PolicyError, match="cannot be read"):
        read(link)
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
        with pytest.raises(PolicyError, match="belongs to uid 65534"):
            read(path)
