"""The unit with eBPF, on the host's kernel: what the daemon may reach, and that nothing starts unguarded."""

import json

import pytest
from tests.system.fleet import Fleet, connected, install, restarts_soon

CONNECT = "/usr/bin/python3 -c 'import socket; socket.create_connection((\"{}\", {}), 3)'"


@pytest.fixture(scope="module")
def device(machines):
    machine = machines("guarded", kernel=True)
    install(machine, "fedge-agent")
    install(machine, "fedge-coordinator")
    machine.write("/etc/fedge/agent.d/50-test.toml", '[kernel]\nnetwork = "require"\n')
    restarts_soon(machine)
    machine.do("systemctl restart fedge-agent")
    return machine


@pytest.fixture(scope="module")
def fleet(device):
    return Fleet(device)


@pytest.fixture(scope="module")
def unit_cgroup(device):
    (mount,) = device.do("findmnt -n -o TARGET -t cgroup2").split()
    return mount + device.do("systemctl show -P ControlGroup fedge-agent").strip()


def inside(unit_cgroup, command):
    """A command by somebody who is in the agent's control group."""
    return f"echo $$ > {unit_cgroup}/agent/cgroup.procs 2>/dev/null || echo $$ > {unit_cgroup}/cgroup.procs; {command}"


def test_the_unit_starts_guarded_before_it_is_enrolled(device, unit_cgroup):
    status = json.loads(device.do(f"fedge-bpf status -o json --cgroup {unit_cgroup}"))
    assert status["admission_enforced"], status
    shown = device.do("systemctl show fedge-agent -p ActiveState,StatusText,NRestarts")
    assert "ActiveState=active" in shown
    assert "not enrolled" in shown


def test_before_the_enrolment_the_unit_may_reach_nothing(device, fleet, unit_cgroup):
    command = CONNECT.format(device.address, 8883)
    assert device.run(command).status == 0
    done = device.run(inside(unit_cgroup, command))
    assert done.status != 0
    assert "PermissionError: [Errno 1] Operation not permitted" in done.text


def test_an_enrolment_opens_its_broker_and_nothing_else_without_a_restart(device, fleet, unit_cgroup):
    pid = device.do("systemctl show -P MainPID fedge-agent").strip()
    fleet.enrol(device)
    assert device.do("systemctl show -P MainPID fedge-agent").strip() == pid
    assert device.run(inside(unit_cgroup, CONNECT.format(device.address, 8883))).status == 0
    for host, port in ((device.address, 22), ("127.0.0.1", 8883), ("10.77.0.1", 8000)):
        done = device.run(inside(unit_cgroup, CONNECT.format(host, port)))
        assert "PermissionError" in done.text, (host, port, done.text)
    assert device.run(CONNECT.format("10.77.0.1", 8000)).status == 0


def test_the_daemon_proves_it_itself_without_a_capability_though_bpffs_is_closed(device):
    assert device.do("stat -c %a /sys/fs/bpf").strip().endswith("700")
    device.do("systemctl restart fedge-agent")
    connected(device)
    admission = json.loads(device.run("fedge-agent status -o json").text)["network_admission"]
    assert admission["enforced"]
    assert "counted by the kernel" in admission["detail"], "the daemon could read the pinned maps"
    assert admission["counters"]


def test_a_name_is_resolved_for_the_daemon_when_it_asks_by_a_refresher_whose_answer_it_can_read(device):
    device.do("echo '192.0.2.1 mq.test' >>/etc/hosts")
    device.write("/etc/fedge/agent.d/60-name.toml", '[network]\nbroker = "mqtts://mq.test:8883"\n')
    device.do("systemctl restart fedge-agent")
    device.do(f"sed -i 's/192.0.2.1 mq.test/{device.address} mq.test/' /etc/hosts")
    try:
        # nobody at the first address: the daemon asks, fedge-policy.path runs the refresher, and the daemon goes where
        # the name leads now; the certificate there is another name's
        there = "certificate is not valid for 'mq.test'"
        device.wait("systemctl show -P StatusText fedge-agent", lambda done: there in done.text, 120)
        endpoints = json.loads(device.do("cat /run/fedge-bpf/endpoints"))["endpoints"]
        (found,) = [item for item in endpoints if item["host"] == "mq.test"]
        assert {item["address"] for item in found["addresses"]} == {"192.0.2.1", device.address}
        assert "mqtts://mq.test:8883; 2 addresses of mq.test" in device.run("fedge-agent doctor").text
        assert device.do("stat -c '%U %a' /run/fedge-bpf/endpoints").split() == ["root", "644"]
    finally:
        device.do("rm /etc/fedge/agent.d/60-name.toml; sed -i '/mq.test/d' /etc/hosts; systemctl restart fedge-agent")
    connected(device)


def test_of_all_pins_the_daemon_sees_its_own_alone(device):
    as_the_daemon = (
        "nsenter --target $(systemctl show -P MainPID fedge-agent) --mount setpriv --reuid fedge --regid fedge"
    )
    device.do(f"{as_the_daemon} --clear-groups test -r /run/fedge/bpf/fedge_count")
    listed = device.run(f"{as_the_daemon} --clear-groups ls /run/fedge/bpf")
    assert "Permission denied" in listed.text, "who may read the directory may lock it"
    refused = device.run(f"{as_the_daemon} --clear-groups ls /sys/fs/bpf")
    assert "Permission denied" in refused.text


def test_the_daemon_has_no_bus_to_ask_questions_by(device):
    device.do("test -S /run/dbus/system_bus_socket")
    inside_it = "nsenter --target $(systemctl show -P MainPID fedge-agent) --mount"
    assert device.run(f"{inside_it} test -S /run/dbus/system_bus_socket").status != 0
    device.do(f"{inside_it} test -S /run/systemd/notify")


def test_under_require_a_loader_that_fails_fails_the_start(device):
    device.do("systemctl stop fedge-agent")
    device.do("mv /usr/lib/fedge/bpf /usr/lib/fedge/bpf.away")
    try:
        assert device.run("systemctl start fedge-agent").status != 0
        shown = device.do("systemctl show fedge-agent -p SubState,MainPID")
        assert "MainPID=0" in shown
        assert "fedge-bpf attach:" in device.journal("fedge-agent")
    finally:
        device.do("mv /usr/lib/fedge/bpf.away /usr/lib/fedge/bpf")
    device.do("systemctl reset-failed fedge-agent; systemctl start fedge-agent")


def test_a_stopped_unit_leaves_no_program_behind(device):
    device.do("systemctl stop fedge-agent")
    assert device.do("ls /sys/fs/bpf --ignore='*.debug'").strip() == ""


def test_a_purge_leaves_no_pin_no_state_and_no_user(device):
    device.do("systemctl start fedge-agent")
    device.do("apt-get purge -y fedge-agent")
    assert device.do("ls /sys/fs/bpf --ignore='*.debug'").strip() == ""
    assert device.run("ls -d /var/lib/fedge /var/lib/fedge-bpf /run/fedge").text.count("No such file") == 3
    assert device.run("getent passwd fedge").status != 0
