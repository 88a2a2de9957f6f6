"""The owner's limits: hours, disk, link and the budgets of a day."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_agent.admission.default_link import default_routes
from fedge_agent.admission.hours import QuietHours
from fedge_agent.admission.judgement import Signals, judge
from fedge_agent.admission.ledger import Ledger, Used
from fedge_agent.admission.owner import OwnerWatch
from fedge_agent.admission.policy import AdmissionPolicy, Mark, Places, PolicyValueError
from fedge_protocol.conditions import ConditionReason as Reason

MIB = 1024 * 1024
NOON_S = 20_800 * 86_400 + 43_200.0


class Worker:
    """Its CPU time is what a test says."""

    def __init__(self):
        self.used_s = 0.0

    def cpu_seconds(self):
        return self.used_s


class Bench:
    def __init__(self, policy, root=None):
        self.wall_s = NOON_S
        self.traffic: int | None = 0
        self.free = 1000 * MIB
        self.now_s = 0.0
        self.policy = policy
        self.root = root
        self.watch = self.fresh()

    def fresh(self):
        return OwnerWatch(
            self.policy,
            lambda: default_routes(self.root) if self.root is not None else (),
            wall_s=lambda: self.wall_s,
            traffic_bytes=lambda: self.traffic,
            free_bytes=lambda: self.free,
        )

    def look(self):
        self.now_s += 10
        return self.watch.look(self.now_s)


def over(judgement):
    return judgement.over and judgement.over[0]


def unquiet(judgement):
    return judgement.unquiet and judgement.unquiet[0]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("08:00-18:30", ["08:00", "12:00", "18:29"], ["07:59", "18:30", "00:00"]),
        ("22:30-06:00", ["22:30", "23:59", "00:00", "05:59"], ["06:00", "22:29", "12:00"]),
    ],
)
def test_quiet_hours_hold_from_their_first_minute_to_before_their_last(text, inside, outside):
    def minute(clock):
        return int(clock[:2]) * 60 + int(clock[3:])

    hours = QuietHours.parse(text)
    assert str(hours) == text
    assert all(hours.holds(minute(clock)) for clock in inside)
    assert not any(hours.holds(minute(clock)) for clock in outside)


@pytest.mark.parametrize("value", ["08:00-18:30", ["8-18"], ["24:00-01:00"], ["08:00-08:00"], [8]])
def test_hours_that_cannot_be_meant_are_refused_by_name(value):
    with pytest.raises(PolicyValueError, match="quiet_hours"):
        AdmissionPolicy.from_mapping({"quiet_hours": value})


def test_in_quiet_hours_a_running_round_is_paused_too():
    local = time.localtime(NOON_S)
    now = local.tm_hour * 60 + local.tm_min
    bench = Bench(AdmissionPolicy(quiet_hours=(QuietHours(now, (now + 60) % 1440),)))
    assert over(bench.look()) is unquiet(bench.look()) is Reason.QUIET_HOURS
    bench.wall_s += 3600
    assert bench.look().unquiet is None


def test_a_full_disk_pauses_and_is_quiet_again_only_from_the_high_mark():
    bench = Bench(AdmissionPolicy(disk_free_mib=Mark(10, 20)))
    bench.free = 15 * MIB
    assert (over(bench.look()), unquiet(bench.look())) == (None, Reason.DISK)
    bench.free = 9 * MIB
    assert over(bench.look()) is Reason.DISK
    bench.free = 20 * MIB
    assert bench.look().unquiet is None


def test_the_cpu_seconds_of_a_day_end_a_round_and_the_next_day_begins_anew():
    bench = Bench(AdmissionPolicy(cpu_seconds_a_day=100))
    worker = Worker()
    worker.used_s = 7.0  # a worker that was measured before it began
    bench.watch.begin(worker)
    worker.used_s = 106.0
    assert bench.look().unquiet is None
    worker.used_s = 107.0
    assert over(bench.look()) is Reason.CPU_BUDGET
    bench.watch.end()
    bench.wall_s += 86_400
    assert bench.look().unquiet is None


def test_the_last_round_of_a_day_runs_to_its_end_and_the_next_is_not_admitted():
    bench = Bench(AdmissionPolicy(rounds_a_day=2))
    for _ in range(2):
        assert bench.look().unquiet is None
        bench.watch.begin(Worker())
        assert bench.look().unquiet is None
        bench.watch.end()
    found = bench.look()
    assert (over(found), unquiet(found)) == (None, Reason.ROUNDS_BUDGET)
    assert "2 of 2 rounds" in found.unquiet[1]


def test_bytes_are_counted_from_the_first_look_on_and_over_a_new_attachment():
    bench = Bench(AdmissionPolicy(mib_a_day=2))
    bench.traffic = 50 * MIB
    assert bench.look().unquiet is None
    bench.traffic = 51 * MIB
    assert bench.look().unquiet is None
    bench.traffic = MIB  # attached anew: counted from zero
    assert over(bench.look()) is Reason.BYTES_BUDGET


def test_bytes_that_cannot_be_counted_are_not_taken_for_none():
    bench = Bench(AdmissionPolicy(mib_a_day=2))
    bench.traffic = None
    assert over(bench.look()) is Reason.SIGNALS_MISSING


def test_what_was_used_is_known_after_a_restart(tmp_path):
    policy = AdmissionPolicy(rounds_a_day=1, places=Places(state_dir=tmp_path))
    bench = Bench(policy)
    bench.watch.begin(Worker())
    bench.watch = bench.fresh()  # killed without a word
    assert unquiet(bench.look()) is Reason.ROUNDS_BUDGET


def make_route(root, name, *, wireless=False, kind="1"):
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    (root / "proc/net/route").write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask\n"
        "lan9 0002000C 00000000 0001 0 0 0 00FFFFFF\n"
        f"{name} 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n"
    )
    (root / "proc/net/ipv6_route").write_text(f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n")
    place = root / "sys/class/net" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "type").write_text(f"{kind}\n")
    if wireless:
        (place / "wireless").mkdir()


def test_a_metered_link_is_refused_until_the_routes_change(tmp_path):
    make_route(tmp_path, "wwan0")
    bench = Bench(AdmissionPolicy(), tmp_path)
    assert over(bench.look()) is Reason.METERED
    make_route(tmp_path, "eth0")
    assert bench.look().unquiet is None


def test_a_wireless_link_is_refused_only_where_the_owner_says_so(tmp_path):
    make_route(tmp_path, "wlan0", wireless=True)
    assert Bench(AdmissionPolicy(), tmp_path).look().unquiet is None
    assert over(Bench(AdmissionPolicy(allow_wireless=False), tmp_path).look()) is Reason.WIRELESS


def test_the_route_with_the_lowest_metric_decides_and_a_modem_in_reserve_does_not(tmp_path):
    make_route(tmp_path, "wwan0")
    with (tmp_path / "proc/net/route").open("a") as routes:
        routes.write("eth0 00000000 010200C0 0003 0 0 100 00000000 0 0 0\n")
    assert over(Bench(AdmissionPolicy(), tmp_path).look()) is Reason.METERED
    (tmp_path / "proc/net/route").write_text(
        (tmp_path / "proc/net/route").read_text().replace(" 0 0 0 00000000", " 0 0 700 00000000", 1)
    )
    assert Bench(AdmissionPolicy(), tmp_path).look().unquiet is None


def test_a_link_that_cannot_be_told_keeps_from_training(tmp_path):
    assert unquiet(Bench(AdmissionPolicy(), tmp_path).look()) is Reason.LINK_UNKNOWN
    assert Bench(AdmissionPolicy(allow_metered=True), tmp_path).look().unquiet is None


def test_what_moved_between_two_days_is_charged_to_neither():
    bench = Bench(AdmissionPolicy(mib_a_day=1))
    assert bench.look().unquiet is None
    bench.traffic, bench.wall_s = 5 * MIB, NOON_S + 3 * 86_400
    assert bench.look().unquiet is None
    bench.traffic += 2 * MIB
    assert over(bench.look()) is Reason.BYTES_BUDGET


def test_the_owners_reason_comes_before_the_loads():
    bench = Bench(AdmissionPolicy(rounds_a_day=1))
    bench.watch.begin(Worker())
    bench.watch.end()
    judgement = judge(Signals(cpu_some=0.10, owner=bench.look()), bench.policy)
    assert (judgement.over, unquiet(judgement)) == (None, Reason.ROUNDS_BUDGET)


@settings(deadline=None)  # it waits for the disk
@given(st.lists(st.tuples(st.integers(20_100, 20_110), st.floats(0, 100), st.integers(0, 1000))))
def test_a_day_never_loses_what_it_used_unless_a_later_day_begins(tmp_path_factory, uses):
    path = tmp_path_factory.mktemp("ledger") / "ledger.json"
    ledger = Ledger(path, 20_100)
    for day, cpu_s, moved in uses:
        before = ledger.used(20_000)
        ledger.add(day, cpu_s=cpu_s, traffic_bytes=moved)
        now = ledger.used(20_000)
        assert now.day == day
        if day <= before.day:
            assert now.traffic_bytes == before.traffic_bytes + moved
        ledger.save()
        assert Ledger(path, 0).used(0) == now or now == Used(20_100)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"version": 9}', '{"version": 1, "day": 1}'])
def test_a_damaged_ledger_begins_anew_and_is_told(tmp_path, caplog, text):
    path = tmp_path / "ledger.json"
    path.write_text(text)
    assert Ledger(path, 5).used(5) == Used(5)
    assert "begins anew" in caplog.text


def test_a_disk_that_refuses_does_not_stop_the_day(tmp_path, caplog):
    ledger = Ledger(tmp_path / "gone" / "ledger.json", 5)
    ledger.add(5, rounds=1)
    ledger.save()
    assert ledger.used(5).rounds == 1
    assert "cannot be saved" in caplog.text


def test_the_file_holds_what_was_used(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json", 5)
    ledger.add(5, cpu_s=1.5, traffic_bytes=7, rounds=1)
    ledger.save()
    stored = json.loads((tmp_path / "ledger.json").read_text())
    assert stored == {"version": 1, "day": 5, "cpu_s": 1.5, "traffic_bytes": 7, "rounds": 1}
