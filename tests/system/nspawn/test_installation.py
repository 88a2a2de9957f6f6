"""From nothing to the first completed round by apt alone; upgrade, remove, purge."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

FLEET = "lab"
JOB = "digits"
# Two small machines on a busy host: the load beside them must not decide.
AGENT = """
[consent]
allow_small_cohort = true

[sources.readings]
kind = "directory"
path = "/srv/readings"

[admission]
run_queue_p95_us = [2e8, 3e8]
cpu_some = [2, 3]
memory_some = [2, 3]
io_some = [2, 3]
temperature_c = [200, 201]
enter_after_s = 0
"""
JOB_DOCUMENT = {
    "apiVersion": "fedge.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": JOB},
    "spec": {
        "model": {
            "input": 4,
            "layers": [{"dense": 8, "activation": "relu"}, {"dense": 3}],
            "loss": "softmax-cross-entropy",
            "seed": 1,
        },
        "data": {"source": "readings", "kind": "directory"},
        "training": {
            "epochs": 2,
            "batchSize": 8,
            "learningRate": 0.05,
            "clipNorm": 1.0,
            "maxSamples": 64,
            "weightUnit": 32,
            "weightMax": 2,
        },
        "cohort": {"minimum": 2, "target": 2, "allowSmallCohort": True, "readySeconds": 120, "phaseSeconds": 30},
        "aggregation": {"mode": "secure", "strategy": "fedavg", "suite": "chacha20"},
        "privacy": {"floor": 2},
        "admission": {},
        "rewards": {"perRound": "0", "rule": "participation-v1"},
        "rollout": {"rounds": 5000},
    },
}
ROUNDS = f"fedgectl get rounds --job {JOB} -o json"
LIBRARIES = sorted(Path(__file__).with_name("libraries").glob("*.py"))
LEFTOVERS = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /shared -o -path /var/log -o -path /var/lib/apt -o"
    " -path /var/cache -o -path /etc/apt \\) -prune -o \\( -name '*fedge*' \\) -print"
)


@pytest.fixture(scope="module")
def operator(machines, trust):
    machine = machines("operator")
    trust(machine)
    return machine


@pytest.fixture(scope="module")
def devices(machines, trust):
    found = [machines(f"device{number}") for number in (1, 2)]
    for machine in found:
        trust(machine)
    return found


@pytest.fixture(scope="module")
def versions(operator):
    """The archive's versions of fedge-agent, the older one first."""
    return sorted(re.findall(r"fedge-agent \|\s+(\S+) \|", operator.do("apt-cache madison fedge-agent")))


@pytest.fixture(scope="module")
def installed(operator, devices, versions):
    """The older version on every machine."""
    for machine in devices:
        machine.do(f"apt-get install -y --no-install-recommends fedge-agent={versions[0]}")
    operator.do(f"apt-get install -y fedge-coordinator={versions[0]}")
    return versions


@pytest.fixture(scope="module")
def founded(operator, installed):
    operator.do(f"fedgectl init --fleet {FLEET} --host {operator.address}")
    operator.wait("systemctl is-active fedge-ca fedge-broker fedge-coordinator", lambda d: d.status == 0)
    return operator


@pytest.fixture(scope="module")
def enrolled(founded, devices):
    for seed, machine in enumerate(devices):
        (machine.root / "srv/readings").mkdir()
        rows = [f"{(i * 7 + seed) % 5},{i % 3},{(i * i) % 4},{seed},{i % 3}" for i in range(64)]
        (machine.root / "srv/readings/readings.csv").write_text("a,b,c,d,y\n" + "\n".join(rows) + "\n")
        path = machine.root / "etc/fedge/agent.toml"
        text = path.read_text()
        for table in ("[consent]\n", "[admission]\n"):
            text = text.replace(table, "")
        path.write_text(text + AGENT)
        machine.do("fedge-agent config check")
        machine.do("systemctl restart fedge-agent")
        token = founded.do("fedgectl token create").split()[-1]
        machine.do(f"fedge-agent enroll {token}")
    return devices


def test_an_agent_that_is_not_enrolled_waits_quietly_and_says_how_to_enrol(installed, devices):
    for machine in devices:
        shown = machine.do("systemctl show fedge-agent -p ActiveState,SubState,NRestarts,StatusText")
        assert "ActiveState=active" in shown
        assert "NRestarts=0" in shown
        assert "StatusText=not enrolled: fedge-agent enroll TOKEN" in shown
        assert machine.run("fedge-agent status").status == 5


@pytest.mark.parametrize("script", LIBRARIES, ids=lambda path: path.stem)
def test_each_library_works_as_the_package_installs_it(installed, devices, script):
    machine = devices[1]
    if script.stem == "eth_account_signatures":
        machine.do(f"apt-get install -y --no-install-recommends fedge-agent-eth={installed[0]}")
    if script.stem == "bcc_from_debian" and machine.run("dpkg -s python3-bpfcc").status != 0:
        pytest.skip("the base system has no python3-bpfcc, 165 MB that the agent only recommends")
    (machine.shared / script.name).write_text(script.read_text())
    machine.do(f"/usr/lib/fedge/bin/python3 -IB /shared/{script.name}")


def test_nothing_of_the_builders_or_anybodys_own_python_is_seen(installed, devices):
    machine = devices[0]
    machine.do("mkdir -p /usr/local/lib/python3.11/dist-packages")
    (machine.root / "usr/local/lib/python3.11/dist-packages/msgspec.py").write_text("raise SystemExit('hijacked')")
    machine.do("cd /usr/local/lib/python3.11/dist-packages && fedge-agent config check")
    machine.do("rm /usr/local/lib/python3.11/dist-packages/msgspec.py")


def test_a_coordinator_that_is_not_founded_waits_without_a_failed_unit(operator, installed):
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


def test_two_devices_complete_the_first_round(founded, enrolled):
    (founded.shared / "job.yaml").write_text(yaml.safe_dump(JOB_DOCUMENT))
    founded.do("fedgectl apply -f /shared/job.yaml")
    done = founded.wait(ROUNDS, lambda d: '"finished"' in d.text, timeout_s=150)
    first = json.loads(done.text)
    assert first, done.text
    for machine in enrolled:
        machine.wait("fedge-agent status -o json", lambda d: json.loads(d.text)["outcomes"], timeout_s=60)
        assert re.search(r"StatusText=.*round", machine.do("systemctl show fedge-agent -p StatusText"))


def test_the_worker_ran_confined_under_the_units_filter(enrolled):
    for machine in enrolled:
        assert "Traceback" not in machine.journal("fedge-agent")
        assert machine.do("journalctl -k --no-pager --output=cat | grep -c 'audit.*SECCOMP' || true").strip() == "0"


def test_an_upgrade_keeps_enrolment_and_the_owners_edits(founded, enrolled, installed):
    machine = enrolled[0]
    before = json.loads(machine.run("fedge-agent status -o json").text)["device"]
    edited = (machine.root / "etc/fedge/agent.toml").read_text()
    machine.do(f"apt-get install -y --no-install-recommends fedge-agent={installed[1]}")
    assert machine.do("dpkg-query -W -f '${Version}' fedge-agent") == installed[1]
    assert (machine.root / "etc/fedge/agent.toml").read_text() == edited
    machine.wait("fedge-agent status -o json", lambda d: '"connected": true' in d.text, timeout_s=60)
    assert json.loads(machine.run("fedge-agent status -o json").text)["device"] == before


def test_an_agent_of_the_previous_version_completes_a_round_beside_the_new_one(founded, enrolled):
    before = founded.do(ROUNDS).count('"finished"')
    founded.wait(ROUNDS, lambda d: d.text.count('"finished"') > before + 1, timeout_s=150)


def test_a_version_that_was_replaced_can_be_had_back(enrolled, installed):
    machine = enrolled[0]
    machine.do(f"apt-get install -y --no-install-recommends --allow-downgrades fedge-agent={installed[0]}")
    machine.wait("fedge-agent status -o json", lambda d: '"connected": true' in d.text, timeout_s=60)


def test_a_kill_is_followed_by_one_restart(enrolled):
    machine = enrolled[1]
    machine.do("systemctl kill --kill-whom=main --signal=KILL fedge-agent")
    machine.wait("systemctl show -P NRestarts fedge-agent", lambda d: d.text.strip() == "1", timeout_s=90)
    machine.wait("fedge-agent status -o json", lambda d: '"connected": true' in d.text, timeout_s=90)


def test_a_configuration_that_cannot_be_used_stops_the_unit_with_its_line_and_without_a_loop(enrolled):
    machine = enrolled[1]
    path = machine.root / "etc/fedge/agent.toml"
    good = path.read_text()
    path.write_text(good.replace("#memory_max_mib = 128", "memory_max_mib = 1"))
    machine.run("systemctl restart fedge-agent")
    shown = machine.do("systemctl show fedge-agent -p ActiveState,NRestarts,ExecMainStatus")
    assert "ActiveState=failed" in shown
    assert re.search(r"agent\.toml:\d+: ", machine.journal("fedge-agent"))
    path.write_text(good)
    machine.do("systemctl restart fedge-agent")


def test_a_removed_agent_keeps_its_state_and_a_purged_one_leaves_nothing(enrolled):
    machine = enrolled[0]
    said = machine.do("apt-get remove -y fedge-agent")
    assert "save that file before you purge" in said
    assert Path(machine.root / "var/lib/fedge/chain.key").exists()
    assert Path(machine.root / "etc/fedge/agent.toml").exists()
    machine.do("apt-get purge -y fedge-agent")
    left = [
        line
        for line in machine.do(LEFTOVERS).splitlines()
        if line != "/etc/apt" and "/var/lib/dpkg" not in line and "/var/lib/systemd/deb-systemd" not in line
    ]
    assert left == []
    assert machine.run("getent passwd fedge").status != 0
    assert machine.run("find /usr/lib -name __pycache__ -path '*fedge*'").text == ""


def test_a_tampered_archive_is_refused(operator, devices, archive, machines):
    machine = devices[0]
    repository = Path(os.environ["FEDGE_SYSTEM_REPO"])
    packages = repository / "dists/bookworm/main/binary-amd64/Packages"
    zipped = packages.with_name("Packages.gz")
    honest = packages.read_bytes(), zipped.read_bytes()
    try:
        packages.write_bytes(honest[0].replace(b"Version: 0", b"Version: 9"))
        zipped.unlink()
        machine.do("rm -rf /var/lib/apt/lists/*")
        done = machine.run("apt-get update -o Acquire::http::No-Cache=true")
        assert done.status != 0
        assert "Hash Sum mismatch" in done.text or "unexpected size" in done.text
        assert "9.1.0" not in machine.run("apt-cache madison fedge-agent").text
    finally:
        packages.write_bytes(honest[0])
        zipped.write_bytes(honest[1])
