"""What the owner of one device does, by the installed commands and units: layers, the model, a report, leaving."""

import json
import tarfile
from pathlib import Path

import pytest
from tests.system.fleet import Fleet, install, own

from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec

SOCKET = "/run/fedge-inference.sock"


@pytest.fixture(scope="module")
def fleet(machines):
    machine = machines("operator")
    install(machine, "fedge-coordinator")
    return Fleet(machine)


@pytest.fixture(scope="module")
def device(machines, fleet):
    machine = machines("device")
    install(machine, "fedge-agent")
    own(machine, 1)
    fleet.enrol(machine)
    machine.wait("systemctl show -P StatusText fedge-agent", lambda done: done.text.startswith("waiting"))
    return machine


def inside(machine, path: str) -> Path:
    return Path(machine.root) / path.lstrip("/")


def test_the_line_of_systemctl_status_has_state_and_reason(device):
    assert 'Status: "waiting for a round; none is offered now"' in device.do("systemctl status --no-pager fedge-agent")


def test_a_drop_in_decides_for_the_daemon_and_the_loader_alike(device):
    device.write("/etc/fedge/agent.d/60-more.toml", '[kernel]\nallow = ["192.0.2.1:1/tcp", "nonsense"]\n')
    refused = device.run("fedge-agent config check")
    assert refused.status == 78
    assert "/etc/fedge/agent.d/60-more.toml:2: " in refused.text
    loader = device.run("fedge-bpf refresh --config /etc/fedge/agent.toml")
    assert loader.status == 78
    assert "/etc/fedge/agent.d/60-more.toml:2: " in loader.text
    device.do("rm /etc/fedge/agent.d/60-more.toml")
    assert "/etc/fedge/agent.d/50-test.toml:" in device.do("fedge-agent config check")


def test_the_socket_listens_before_anybody_asks_and_no_process_does(device):
    assert device.do("systemctl is-active fedge-inference.socket").strip() == "active"
    assert device.run("systemctl is-active fedge-inference.service").text.strip() == "inactive"
    assert device.do(f"stat -c '%a %U %G' {SOCKET}").strip() == "660 root fedge"
    assert "no-model" in device.run("fedge-agent infer --model").text


def test_a_question_starts_the_server_which_sees_the_model_and_nothing_else(device):
    layers = [{"dense": 3}]
    bundle = build_bundle(parse_model_spec({"input": 4, "layers": layers, "loss": "softmax-cross-entropy", "seed": 1}))
    names = {"graph": bundle.graph_sha256.hex(), "weights": bundle.weights_sha256.hex()}
    for name, content in ((names["graph"], bundle.graph), (names["weights"], bundle.weights)):
        (inside(device, "/var/lib/fedge/model") / name).write_bytes(content)
    slot = {"job": "demo", "round": 1, "dim": bundle.parameter_count, "landed_at": 1}
    device.write("/var/lib/fedge/model/demo.json", json.dumps(slot | names))
    device.do("chmod 644 /var/lib/fedge/model/*")
    found = json.loads(device.do("echo '[[1, 2, 3, 4]]' | fedge-agent infer -o json"))
    (row,) = found["outputs"]
    assert sum(row) == pytest.approx(1.0, abs=1e-5)
    pid = device.do("systemctl show -P MainPID fedge-inference").strip()
    status = device.do(f"cat /proc/{pid}/status")
    for line in ("NoNewPrivs:\t1", "CapBnd:\t0000000000000000", "Seccomp:\t2"):
        assert line in status
    enter = f"nsenter --target {pid} --mount --net"
    assert device.do(f"{enter} ls /var/lib/fedge").split() == ["model"]
    assert "Read-only file system" in device.run(f"{enter} touch /var/lib/fedge/model/x").text
    assert device.do(f"{enter} ip -o link").count("\n") == 1  # loopback, and it is down
    confinement = json.loads(device.do("fedge-agent infer --model -o json"))["confinement"]
    assert confinement["network"] == "on"
    assert device.do("systemctl show -P Result fedge-inference").strip() == "success"


def test_a_bug_report_has_the_units_journal_and_no_key_or_address(device):
    device.do("rm -f /root/report.tar.gz; fedge-agent bugreport --output /root/report.tar.gz")
    assert device.do("stat -c %a /root/report.tar.gz").strip() == "600"
    with tarfile.open(inside(device, "/root/report.tar.gz")) as archive:
        parts = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            parts[member.name.partition("/")[2]] = file.read().decode()
    assert "fedge-agent" in parts["journal.txt"]
    assert "StatusText=waiting for a round" in parts["units.txt"]
    whole = "\n".join(parts.values())
    keys = "".join(inside(device, f"/var/lib/fedge/{name}").read_text() for name in ("identity.key", "chain.key"))
    assert not [line for line in keys.splitlines() if "-----" not in line and line in whole]
    assert device.address not in whole
    assert "10.77.0." not in whole


def test_leaving_ends_the_membership_and_the_service_waits_as_not_enrolled(device, fleet):
    name = json.loads(inside(device, "/var/lib/fedge/identity.json").read_text())["device_id"]
    restarts = device.do("systemctl show -P NRestarts fedge-agent")
    assert "left fleet 'lab'" in device.do("fedge-agent leave --yes")
    device.wait("systemctl show -P StatusText fedge-agent", lambda done: done.text.startswith("not enrolled"))
    assert device.do("systemctl is-active fedge-agent").strip() == "active"
    assert device.do("systemctl show -P NRestarts fedge-agent") == restarts
    left = device.do("ls /var/lib/fedge").split()
    assert "chain.key" in left
    assert not {"identity.key", "identity.json", "device.pem"} & set(left)
    assert not device.do("ls /var/lib/fedge/model").split()
    members = {row["device_id"]: row for row in json.loads(fleet.operator.do("fedge-ca devices -o json"))}
    assert members[name]["revoked_at"]
    assert "nothing to leave" in device.do("fedge-agent leave --yes")
    assert device.run("test -e /var/lib/fedge-bpf/fedge.enrolment").status == 1
