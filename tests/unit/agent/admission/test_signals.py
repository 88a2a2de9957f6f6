import pytest

from fedge_agent.admission.signals import SignalSampler


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "worker").mkdir()
    return tmp_path


def write(path, total_us):
    path.write_text(f"some avg10=9.99 avg60=0.00 avg300=0.00 total={total_us}\n")


def pressure(machine, cpu=0, memory=0, io=0, worker=0):
    for name, total_us in (("cpu", cpu), ("memory", memory), ("io", io)):
        write(machine / "proc/pressure" / name, total_us)
        write(machine / "worker" / f"{name}.pressure", worker)


def supply(machine, name, **values):
    place = machine / "sys/class/power_supply" / name
    place.mkdir(parents=True)
    for key, value in values.items():
        (place / key).write_text(f"{value}\n")


def test_shares_come_from_totals_and_the_first_sample_has_none(machine):
    sampler = SignalSampler(root=machine)
    pressure(machine)
    assert sampler.sample(10.0) is None
    pressure(machine, cpu=50_000, memory=10_000, io=200_000)
    signals = sampler.sample(10.2)
    assert signals is not None
    assert signals.cpu_some == pytest.approx(0.25)
    assert signals.memory_some == pytest.approx(0.05)
    assert signals.io_some == pytest.approx(1.0)


def test_the_workers_own_waiting_is_not_held_against_it(machine):
    sampler = SignalSampler(root=machine)
    sampler.exclude(machine / "worker")
    pressure(machine)
    assert sampler.sample(0.0) is None
    pressure(machine, cpu=100_000, worker=80_000)
    signals = sampler.sample(0.2)
    assert signals is not None
    assert signals.cpu_some == pytest.approx(0.1)
    assert signals.memory_some == 0.0


def test_a_starved_workers_waiting_does_not_hide_that_of_the_cgroups_beside_it(machine):
    """Behind a full CPU a SCHED_IDLE worker waits all the time, so the system's stall less its own is nothing."""
    for name in ("container", "container/unit", "container/unit/worker", "container/shop"):
        (machine / name).mkdir()

    def stall(total_us):
        for name in ("container", "container/unit/worker", "container/shop"):
            write(machine / name / "cpu.pressure", total_us)

    sampler = SignalSampler(root=machine, top=machine / "container")
    stall(0)
    sampler.exclude(machine / "container/unit/worker")
    sampler.sample(0.0)
    stall(200_000)
    signals = sampler.sample(0.2)
    assert signals is not None
    assert signals.cpu_some == pytest.approx(1.0)


def test_what_the_machine_does_not_tell_is_none_not_zero(tmp_path):
    sampler = SignalSampler(root=tmp_path)
    sampler.sample(0.0)
    signals = sampler.sample(1.0)
    assert signals is not None
    assert signals.cpu_some is signals.memory_some is signals.io_some is None
    assert signals.temperature_c is signals.on_mains is signals.run_queue_p95_us is None


def test_totals_that_went_back_make_the_window_unknown(machine):
    sampler = SignalSampler(root=machine)
    pressure(machine, cpu=500)
    sampler.sample(0.0)
    pressure(machine, cpu=400)
    signals = sampler.sample(1.0)
    assert signals is not None
    assert signals.cpu_some is None


def test_the_run_queue_signal_is_the_p95_of_the_window(machine):
    histograms = iter([(100, 0, 0, 0), (200, 0, 0, 0), (200, 0, 0, 1)])
    sampler = SignalSampler(root=machine, run_queue=lambda: next(histograms))
    sampler.sample(0.0)
    first, second = sampler.sample(0.2), sampler.sample(0.4)
    assert first is not None
    assert second is not None
    assert first.run_queue_p95_us == pytest.approx(1.9)
    assert second.run_queue_p95_us is None  # one sample is too few to judge


@pytest.mark.parametrize(
    ("supplies", "on_mains", "percent"),
    [
        ({}, None, None),
        ({"AC": {"type": "Mains", "online": 1}}, True, None),
        ({"AC": {"type": "Mains", "online": 0}, "BAT0": {"type": "Battery", "capacity": 55}}, False, 55),
        ({"BAT0": {"type": "Battery", "capacity": 55, "status": "Discharging"}}, False, 55),
        ({"BAT0": {"type": "Battery", "capacity": 55, "status": "Charging"}}, True, 55),
        ({"mouse": {"type": "Battery", "scope": "Device", "capacity": 5}}, None, None),
    ],
)
def test_power_is_read_from_the_supplies(machine, supplies, on_mains, percent):
    for name, values in supplies.items():
        supply(machine, name, **values)
    sampler = SignalSampler(root=machine)
    sampler.sample(0.0)
    signals = sampler.sample(1.0)
    assert signals is not None
    assert (signals.on_mains, signals.battery_percent) == (on_mains, percent)


def test_the_hottest_zone_counts_and_a_broken_one_is_passed_over(machine):
    for number, text in enumerate(("41000", "N/A", "55500")):
        zone = machine / "sys/class/thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    sampler = SignalSampler(root=machine)
    sampler.sample(0.0)
    signals = sampler.sample(1.0)
    assert signals is not None
    assert signals.temperature_c == 55.5
