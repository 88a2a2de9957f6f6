import os
from importlib import import_module
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench"
DAY_S = 86_400


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return import_module("idle_device")


def test_a_day_is_the_quiet_part_stretched_and_a_reconnection_every_hour(bench):
    first, before = bench.Reading(0.0, 1.0, 0, 0), bench.Reading(90.0, 1.09, 900, 9000)
    after, last = bench.Reading(110.0, 1.19, 5900, 21_000), bench.Reading(200.0, 1.28, 6800, 30_000)
    costs = bench.costs_of(first, before, after, last, begun_anew=False)
    assert costs.seconds == 200
    assert costs.quiet_wire_bytes_a_day == pytest.approx(10 * DAY_S)
    assert costs.wire_bytes_a_day == pytest.approx(10 * DAY_S + 24 * 5000)
    assert costs.disk_bytes_a_day == pytest.approx(100 * DAY_S + 24 * (12_000 - 2000))
    assert costs.cpu_share == pytest.approx(0.001 + 24 * 0.1 / DAY_S)
    assert (costs.window_wire_bytes, costs.window_disk_bytes) == (6800, 30_000)
    assert costs.window_cpu_s == pytest.approx(0.28)


def test_a_new_connection_that_is_counted_from_nought_costs_what_it_has_carried(bench):
    first, before = bench.Reading(0.0, 0.0, 3000, 0), bench.Reading(90.0, 0.0, 3900, 0)
    after, last = bench.Reading(110.0, 0.0, 5000, 0), bench.Reading(200.0, 0.0, 5900, 0)
    costs = bench.costs_of(first, before, after, last, begun_anew=True)
    assert costs.reconnect_wire_bytes == 5000
    assert costs.window_wire_bytes == 900 + 5000 + 900


def test_a_reconnection_that_writes_less_than_the_quiet_part_takes_nothing_away_from_the_day(bench):
    first, before = bench.Reading(0.0, 0.0, 0, 0), bench.Reading(90.0, 0.0, 0, 9000)
    after, last = bench.Reading(110.0, 0.0, 0, 9000), bench.Reading(200.0, 0.0, 0, 18_000)
    assert bench.costs_of(first, before, after, last, begun_anew=False).disk_bytes_a_day == pytest.approx(100 * DAY_S)


def test_memory_of_a_group_counts_what_its_processes_share_once(bench):
    processes = import_module("processes")
    one, two = processes.memory([os.getpid()]), processes.memory([os.getpid(), os.getpid()])
    assert two.alone - two.anonymous == pytest.approx(one.alone - one.anonymous, rel=0.05)
    assert two.rss == pytest.approx(2 * one.rss, rel=0.05)
    assert one.pss <= one.rss <= one.peak + 1_000_000
