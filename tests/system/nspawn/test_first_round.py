"""From nothing to the first completed round by README's commands alone; a third device joins later."""

import json
import re

import pytest
from tests.system.fleet import Fleet, connected, install, job, own, restarts_soon

JOB = "digits"


@pytest.fixture(scope="module")
def operator(machines):
    machine = machines("operator")
    install(machine, "fedge-coordinator")
    return machine


@pytest.fixture(scope="module")
def devices(machines):
    found = [machines(f"device{number}") for number in (1, 2)]
    for machine in found:
        install(machine, "fedge-agent")
    return found


@pytest.fixture(scope="module")
def fleet(operator):
    return Fleet(operator)


@pytest.fixture(scope="module")
def enrolled(fleet, devices):
    for seed, machine in enumerate(devices):
        own(machine, seed)
        fleet.enrol(machine)
    return devices


def test_an_agent_that_is_not_enrolled_waits_quietly_and_says_how_to_enrol(devices):
    for machine in devices:
        shown = machine.shows("fedge-agent", "ActiveState", "NRestarts", "StatusText")
        assert "ActiveState=active" in shown
        assert "NRestarts=0" in shown
        assert "StatusText=not enrolled: fedge-agent enroll TOKEN" in shown
        assert machine.run("fedge-agent status").status == 5


def test_nothing_of_the_builders_or_anybodys_own_python_is_seen(devices):
    own_packages = "/usr/local/lib/python3.11/dist-packages"
    devices[0].write(f"{own_packages}/msgspec.py", "raise SystemExit('hijacked')\n")
    devices[0].do(f"cd {own_packages} && fedge-agent config check")
    devices[0].do(f"rm {own_packages}/msgspec.py")


def test_a_coordinator_that_is_not_founded_waits_without_a_failed_unit(operator):
    assert operator.do("systemctl is-system-running").strip() == "running"
    assert operator.run("systemctl is-active fedge-coordinator").text.strip() == "inactive"


def test_the_daemon_runs_without_any_privilege(enrolled):
    for machine in enrolled:
        pid = machine.do("systemctl show -P MainPID fedge-agent").strip()
        status = machine.do(f"cat /proc/{pid}/status")
        assert re.search(r"CapBnd:\s+0{16}", status)
        assert re.search(r"CapEff:\s+0{16}", status)
        assert re.search(r"NoNewPrivs:\s+1", status)
        assert re.search(r"Seccomp:\s+2", status)
        assert machine.do(f"ps -o user= -p {pid}").strip() == "fedge"
        assert machine.do("stat -c '%a %U' /var/lib/fedge").split() == ["700", "fedge"]


def test_two_devices_complete_the_first_round(fleet, enrolled):
    # room for three: whoever is there after twelve seconds makes the round
    fleet.apply(job(JOB, target=3, ready_s=12))
    first = fleet.completes(JOB)
    assert (first["round"], first["participants"]) == (fleet.rounds(JOB)[0]["round"], 2), "no round before it failed"
    for machine in enrolled:
        status = json.loads(machine.run("fedge-agent status -o json").text)
        assert status["outcomes"]
        assert re.search(r"StatusText=.*round", machine.shows("fedge-agent", "StatusText"))


def test_the_worker_ran_confined_under_the_units_filter(enrolled):
    for machine in enrolled:
        assert "Traceback" not in machine.journal("fedge-agent")
        assert machine.do("journalctl -k --no-pager --output=cat | grep -c 'audit.*SECCOMP' || true").strip() == "0"


def test_a_third_device_joins_later_and_takes_part(fleet, enrolled, machines):
    third = machines("device3")
    install(third, "fedge-agent")
    own(third, seed=2)
    fleet.enrol(third)
    together = fleet.completes(JOB, participants=3)
    assert together["dropouts"] == 0
    rounds = json.loads(third.run("fedge-agent status -o json").text)["rounds"]
    assert together["round"] in {row["round"] for row in rounds}


def test_a_kill_is_followed_by_one_restart(enrolled):
    machine = enrolled[1]
    assert "RestartUSec=30s" in machine.shows("fedge-agent", "RestartUSec")
    restarts_soon(machine)
    machine.do("systemctl kill --kill-whom=main --signal=KILL fedge-agent")
    machine.wait("systemctl show -P NRestarts fedge-agent", lambda done: done.text.strip() == "1")
    connected(machine)


def test_a_configuration_that_cannot_be_used_stops_the_unit_with_its_line_and_without_a_loop(enrolled):
    machine = enrolled[1]
    machine.write("/etc/fedge/agent.d/60-wrong.toml", "[worker]\nmemory_max_mib = 1\n")
    machine.run("systemctl restart fedge-agent")
    shown = machine.shows("fedge-agent", "ActiveState", "NRestarts", "ExecMainStatus")
    assert "ActiveState=failed" in shown
    assert re.search(r"60-wrong\.toml:2: ", machine.journal("fedge-agent"))
    machine.do("rm /etc/fedge/agent.d/60-wrong.toml && systemctl restart fedge-agent")
    connected(machine)
