import json

import pytest

from fedge_agent.kernel.user_budget import UserBudget

MIB = 1024 * 1024
DAY_S = 86_400
NOON = 20_500 * DAY_S + DAY_S // 2


class Wall:
    def __init__(self):
        self.now_s = NOON

    def __call__(self):
        return self.now_s


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def budget(tmp_path, wall):
    return lambda limit=4 * MIB: UserBudget(tmp_path / "budget.json", limit, wall_s=wall)


def test_bytes_are_counted_down_to_the_end_of_the_day(budget, wall):
    one = budget()
    one.use(3 * MIB)
    assert (one.left_bytes, one.spent) == (MIB, False)
    one.use(2 * MIB)
    assert (one.left_bytes, one.spent) == (0, True)
    assert one.refilled_in_s() == DAY_S / 2
    wall.now_s += DAY_S / 2
    assert (one.left_bytes, one.spent) == (4 * MIB, False)


def test_a_good_end_keeps_every_byte(budget):
    one = budget()
    one.use(123_456)
    one.close()
    assert budget().left_bytes == 4 * MIB - 123_456


@pytest.mark.parametrize("used", [0, 1, 65_535, 65_537, MIB, 3 * MIB + 17])
def test_a_kill_at_any_moment_gives_no_byte_back_and_costs_at_most_a_slice(budget, used):
    one = budget()
    for _ in range(used // 1000):
        one.use(1000)
    one.use(used % 1000)
    after = budget().left_bytes
    assert 4 * MIB - used - 2 * (4 * MIB // 64) <= after <= 4 * MIB - used


def test_a_restart_a_minute_does_not_refill_a_spent_day(budget):
    budget().use(5 * MIB)
    for _ in range(10):
        assert budget().spent


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 9}', '{"version": 1, "left_bytes": "x"}'])
def test_a_damaged_file_counts_as_a_spent_day(tmp_path, budget, wall, content, caplog):
    (tmp_path / "budget.json").write_text(content)
    one = budget()
    assert one.spent
    assert "today counts as spent" in caplog.text
    wall.now_s += DAY_S
    assert not one.spent


def test_a_clock_that_goes_back_refills_nothing(budget, wall):
    one = budget()
    one.use(4 * MIB)
    wall.now_s -= 3 * DAY_S
    assert one.spent
    assert budget().spent


def test_a_changed_limit_keeps_what_was_used(budget):
    one = budget()
    one.use(MIB)
    one.close()
    assert budget(8 * MIB).left_bytes == 7 * MIB


def test_the_file_is_written_once_a_slice_and_not_for_each_packet(tmp_path, budget):
    one = budget(64 * MIB)
    before = json.loads((tmp_path / "budget.json").read_text())["left_bytes"]
    assert before == 63 * MIB
    for _ in range(100):
        one.use(1000)
    assert json.loads((tmp_path / "budget.json").read_text())["left_bytes"] == before


def test_a_directory_that_cannot_be_written_is_told_and_the_count_goes_on(tmp_path, wall, caplog):
    (tmp_path / "file").write_text("")
    one = UserBudget(tmp_path / "file" / "budget.json", MIB, wall_s=wall)
    one.use(MIB)
    assert one.spent
    assert "cannot be saved" in caplog.text
