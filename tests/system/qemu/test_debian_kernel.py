"""A device with Debian's own kernel, control groups v2 and a power switch; its fleet runs beside it, in containers.

Emulated (TCG), so slow: waits are long, and nothing here judges time.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.system.fleet import (
    Fleet,
    connected,
    install,
    job,
    own,
    restarts_soon,
    trust,
    waits_ready,
)
from tests.system.machine import MachineError
from tests.system.qemu.machine import VirtualMachine

SCRATCH = Path(os.environ.get("FEDGE_SYSTEM_SCRATCH", "/nonexistent"))
BUILT = Path(os.environ.get("FEDGE_SYSTEM_QEMU", "/nonexistent"))
UNIT = "/sys/fs/cgroup/fedge.slice/fedge-agent.service"
WORKER = f"{UNIT}/worker"
MIB = 1 << 20
LIMITS = """
[kernel]
network = "require"

[worker]
memory_max_mib = 128
cpu_max_percent = 50
"""
SIGNED = """import json, sqlite3
db = sqlite3.connect("/var/lib/fedge/state.db")
print(json.dumps(db.execute("SELECT job, round, attempt, hex(body) FROM signed").fetchall()))
"""
SHORT, LONG = "short", "long"
EMULATED_S = 600.0
"""A wait for what takes seconds on a device."""


@pytest.fixture(scope="module")
def fleet(machines):
    operator = machines("operator")
    install(operator, "fedge-coordinator")
    return Fleet(operator)


@pytest.fixture(scope="module")
def partner(machines, fleet):
    """The second device of the fleet."""
    machine = machines("partner")
    install(machine, "fedge-agent")
    own(machine, seed=1)
    fleet.enrol(machine)
    return machine


@pytest.fixture(scope="module")
def device(lan, archive):
    """The machine under test, with the agent installed."""
    if shutil.which("qemu-system-x86_64") is None or not (BUILT / "disk.ext4").exists():
        pytest.skip("no virtual machine was built; tests/system/run --qemu builds one")
    namespace, address = lan.join()
    machine = VirtualMachine("vm", BUILT, SCRATCH / f"{os.getpid()}-vm", namespace, address)
    try:
        machine.boot()
        trust(machine, archive)
        machine.write("/etc/apt/apt.conf.d/91-alone", 'APT::Install-Recommends "false";\n')  # 28 MB of eth-account
        restarts_soon(machine)
        install(machine, "fedge-agent")
        own(machine, 0, LIMITS)
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module")
def enrolled(device, fleet, partner):
    """Its id in the fleet."""
    return fleet.enrol(device, EMULATED_S)


def from_inside(host, port):
    """A connection by somebody who is in the agent's control group."""
    connect = f'import socket; socket.create_connection(("{host}", {port}), 20)'
    enter = f"echo $$ >{UNIT}/agent/cgroup.procs 2>/dev/null || echo $$ >{UNIT}/cgroup.procs"
    return f"{enter}; exec /usr/bin/python3 -ISc '{connect}'"


def trains(machine):
    """Return when its worker is there."""
    machine.wait(f"grep -q . {WORKER}/cgroup.procs", lambda done: done.status == 0, EMULATED_S)


def counts(machine, path):
    """A file of `NAME NUMBER` lines."""
    return {name: int(number) for name, number in (line.split() for line in machine.do(f"cat {path}").splitlines())}


def restarts(machine):
    return int(machine.do("systemctl show -P NRestarts fedge-agent"))


def nothing_was_signed_twice(machine, fleet, device_id):
    """The device remembers all that the coordinator accepted from it, and no second was ever offered."""
    machine.write("/root/signed.py", SIGNED)
    remembered: dict[tuple[str, int, int], list[bytes]] = {}
    for name, number, attempt, body in json.loads(machine.do("/usr/bin/python3 -IS /root/signed.py")):
        remembered.setdefault((name, number, attempt), []).append(bytes.fromhex(body))
    accepted = [entry for entry in fleet.accepted(device_id) if entry[1] != "refusal"]
    assert accepted
    for key, kind, body in accepted:
        assert any(mine in body for mine in remembered.get(key, [])), (
            f"{kind} of {key} was accepted, and forgotten here"
        )
    assert "a second, different" not in fleet.operator.journal("fedge-coordinator")


def test_the_package_installs_under_debians_kernel_and_the_unit_waits_guarded(device):
    assert device.do("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"
    device.wait("systemctl is-active fedge-agent", lambda done: done.status == 0)
    assert "not enrolled" in device.shows("fedge-agent", "StatusText")
    assert json.loads(device.do(f"fedge-bpf status -o json --cgroup {UNIT}"))["admission_enforced"]


def test_a_connection_that_is_not_the_fleets_is_denied_by_the_kernel(device, enrolled, fleet, archive):
    assert json.loads(device.run("fedge-agent status -o json").text)["network_admission"]["enforced"]
    device.do(from_inside(fleet.operator.address, 8883))
    archive_host = archive.url.split("/")[2].split(":")[0]
    denied = device.run(from_inside(archive_host, 8000))
    assert "PermissionError: [Errno 1]" in denied.text
    device.do(f"exec 3<>/dev/tcp/{archive_host}/8000")  # from outside of the unit it is there


def test_it_completes_a_round_with_a_device_in_a_container(device, enrolled, fleet):
    fleet.apply(job(SHORT, ready_s=600))
    assert fleet.completes(SHORT, timeout_s=EMULATED_S)["participants"] == 2
    fleet.rests(SHORT, EMULATED_S)


def test_the_workers_cpu_and_memory_limits_hold(device, enrolled, fleet):
    fleet.apply(job(LONG, ready_s=600, epochs=500))
    trains(device)
    assert device.do(f"cat {WORKER}/memory.max").strip() == str(128 * MIB)
    before = counts(device, f"{WORKER}/cpu.stat")
    pid = device.do("systemctl show -P MainPID fedge-agent").strip()
    device.write("/root/hog.py", f"held = bytearray({200 * MIB})\n")
    hog = device.run(f"echo $$ >{WORKER}/cgroup.procs && exec /usr/bin/python3 -IS /root/hog.py")
    assert hog.status == 137, hog.text
    assert counts(device, f"{WORKER}/memory.events")["oom_kill"] >= 1
    after = counts(device, f"{WORKER}/cpu.stat")
    assert after["nr_throttled"] > before["nr_throttled"], "two processes wanted more than half a CPU"
    periods = after["nr_periods"] - before["nr_periods"]
    assert after["usage_usec"] - before["usage_usec"] <= (periods + 2) * 50_000 * 1.1
    assert device.do("systemctl show -P MainPID fedge-agent").strip() == pid, "the daemon lives on"


def test_a_daemon_that_hangs_is_started_again_by_the_watchdog(device, enrolled):
    before = restarts(device)
    device.do("systemctl kill --kill-whom=main --signal=STOP fedge-agent")
    device.wait("systemctl show -P NRestarts fedge-agent", lambda done: int(done.text) == before + 1, EMULATED_S)
    assert "Watchdog timeout" in device.do("journalctl --no-pager --output=cat _PID=1 | grep fedge-agent")
    connected(device, EMULATED_S)


def test_a_daemon_that_is_killed_while_its_worker_trains_leaves_no_worker_and_comes_back(device, enrolled):
    trains(device)
    before = restarts(device)
    worker = device.do(f"head -n 1 {WORKER}/cgroup.procs").strip()
    device.do("systemctl kill --kill-whom=main --signal=KILL fedge-agent")
    device.wait("systemctl show -P NRestarts fedge-agent", lambda done: int(done.text) == before + 1, EMULATED_S)
    assert device.run(f"test -e /proc/{worker}").status != 0
    connected(device, EMULATED_S)


def test_after_a_power_cut_while_its_worker_trains_it_goes_on_and_signs_nothing_twice(device, enrolled, fleet):
    trains(device)
    device.cut_power()
    with pytest.raises(MachineError):
        device.run("true")
    device.boot()
    connected(device, EMULATED_S)
    assert json.loads(device.run("fedge-agent status -o json").text)["network_admission"]["enforced"]
    fleet.completes(LONG, timeout_s=EMULATED_S)
    nothing_was_signed_twice(device, fleet, enrolled)


def test_after_a_power_cut_between_ready_and_the_sum_it_drops_out_cleanly_and_signs_nothing_twice(
    device, enrolled, fleet, partner
):
    fleet.operator.do(f"fedgectl cancel --yes job {LONG}")
    partner.do("fedge-agent pause")
    fleet.operator.do(f"fedgectl resume job {SHORT}")
    waits_ready(device, EMULATED_S)
    (waiting,) = [row for row in fleet.rounds(SHORT) if row["status"] == "open"]
    device.cut_power()
    device.boot()
    partner.do("fedge-agent resume")
    connected(device, EMULATED_S)
    fleet.completes(SHORT, timeout_s=EMULATED_S)
    (ended,) = [
        row for row in fleet.rounds(SHORT) if (row["round"], row["attempt"]) == (waiting["round"], waiting["attempt"])
    ]
    assert ended["status"] in {"aborted", "finished"}
    nothing_was_signed_twice(device, fleet, enrolled)
