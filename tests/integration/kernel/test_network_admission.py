"""Real connections from a guarded cgroup over loopback."""

import errno
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedge_agent.kernel.reader import DenialStream, MapReader
from fedge_agent.kernel.records import Counter, Hook

pytestmark = pytest.mark.parametrize("compiler", ["object", "bcc"], indirect=True)


@pytest.fixture
def tcp4() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def tcp6() -> Iterator[socket.socket]:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}; ip addr add ::1/128 dev lo")
    with server:
        yield server


@pytest.fixture
def udp4() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_an_allowed_peer_is_reached_and_any_other_is_refused_with_eperm(fedge_bpf, cgroup, client, tcp4, tcp6, udp4):
    fedge_bpf(
        "attach",
        "--cgroup",
        str(cgroup),
        *("--allow", f"127.0.0.1:{port_of(tcp4)}/tcp"),
        *("--allow", f"[::1]:{port_of(tcp6)}/tcp"),
        *("--allow", f"127.0.0.0/8:{port_of(udp4)}/udp"),
    )
    agent = client(cgroup)
    assert agent.ask("tcp", "127.0.0.1", port_of(tcp4)) == "ok"
    assert agent.ask("tcp", "::1", port_of(tcp6)) == "ok"
    assert agent.ask("udp", "127.0.0.1", port_of(udp4)) == "ok"
    assert agent.ask("udp", "127.3.2.1", port_of(udp4)) == "ok"
    assert agent.ask("tcp", "127.0.0.1", 9) == "EPERM"
    assert agent.ask("tcp", "::1", 9) == "EPERM"
    assert agent.ask("udp", "127.0.0.1", 9) == "EPERM"
    assert agent.ask("udp", "::1", 9) == "EPERM"
    assert agent.ask("udp", "127.0.0.1", port_of(tcp4)) == "EPERM"
    assert agent.ask("tcp", "0.0.0.0", port_of(tcp4)) == "EPERM"  # noqa: S104 - a target, not a binding


def test_a_mapped_address_is_the_same_peer_as_its_v4_address(fedge_bpf, cgroup, client, tcp4):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--allow", f"127.0.0.1:{port_of(tcp4)}/tcp")
    agent = client(cgroup)
    assert agent.ask("tcp", "::ffff:127.0.0.1", port_of(tcp4)) == "ok"
    assert agent.ask("tcp", "::ffff:127.0.0.1", 9) == "EPERM"


def test_processes_outside_the_cgroup_are_not_affected(fedge_bpf, cgroup, client, tcp4):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(None).ask("tcp", "127.0.0.1", port_of(tcp4)) == "ok"
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(tcp4)) == "EPERM"


def test_a_child_cgroup_is_guarded_too(fedge_bpf, cgroup, make_cgroup, client, tcp4):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(make_cgroup(cgroup)).ask("tcp", "127.0.0.1", port_of(tcp4)) == "EPERM"


def test_a_socket_connected_before_the_programs_came_is_silenced(fedge_bpf, cgroup, client, tcp4, udp4, pin_dir):
    datagrams, stream = client(cgroup), client(cgroup)
    assert datagrams.ask("keep", "udp", "127.0.0.1", port_of(udp4)) == "ok"
    assert stream.ask("keep", "tcp", "127.0.0.1", port_of(tcp4)) == "ok"
    accepted, _ = tcp4.accept()
    with accepted, MapReader(pin_dir) as reader:
        fedge_bpf("attach", "--cgroup", str(cgroup))
        assert datagrams.ask("send") == "EPERM"
        assert stream.ask("send") == "ok"  # into the socket's buffer only
        accepted.settimeout(0.5)
        with pytest.raises(TimeoutError):
            accepted.recv(1)
        assert reader.network()[Counter.DENIED_EGRESS] >= 2
        assert reader.network()[Counter.EGRESS_PACKETS] == 0


def test_a_process_that_moves_in_is_guarded_but_keeps_the_sockets_it_was_born_with(fedge_bpf, cgroup, client, udp4):
    """The known limit of cgroup programs: a socket belongs to the cgroup it was made in (see bpf/README.md)."""
    fedge_bpf("attach", "--cgroup", str(cgroup))
    agent = client(None)
    assert agent.ask("keep", "udp", "127.0.0.1", port_of(udp4)) == "ok"
    agent.move_to(cgroup)
    assert agent.ask("send") == "ok"
    assert agent.ask("keep", "udp", "127.0.0.1", port_of(udp4)) == "EPERM"


def test_narrowing_the_policy_cuts_open_connections_and_widening_restores_them(fedge_bpf, cgroup, client, udp4):
    rule = ("--allow", f"127.0.0.1:{port_of(udp4)}/udp")
    fedge_bpf("attach", "--cgroup", str(cgroup), *rule)
    agent = client(cgroup)
    assert agent.ask("keep", "udp", "127.0.0.1", port_of(udp4)) == "ok"
    assert agent.ask("send") == "ok"
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert agent.ask("send") == "EPERM"
    fedge_bpf("attach", "--cgroup", str(cgroup), *rule)
    assert agent.ask("send") == "ok"


def test_the_counters_tell_bytes_packets_and_refusals(fedge_bpf, cgroup, client, udp4, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--allow", f"127.0.0.1:{port_of(udp4)}/udp")
    agent = client(cgroup)
    agent.ask("udp", "127.0.0.1", port_of(udp4))
    agent.ask("udp", "127.0.0.1", 9)
    agent.ask("tcp", "::1", 9)
    with MapReader(pin_dir) as reader:
        totals = reader.network()
    assert totals[Counter.EGRESS_PACKETS] == 1
    assert totals[Counter.EGRESS_BYTES] == 20 + 8 + 1
    assert (totals[Counter.ALLOWED_SENDMSG], totals[Counter.DENIED_SENDMSG]) == (1, 1)
    assert (totals[Counter.ALLOWED_CONNECT], totals[Counter.DENIED_CONNECT]) == (0, 1)


def test_every_refusal_is_counted_but_only_sixteen_a_second_are_told(fedge_bpf, cgroup, client, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    agent = client(cgroup)
    for _ in range(200):
        assert agent.ask("udp", "127.0.0.1", 9) == "EPERM"
    with MapReader(pin_dir) as reader, DenialStream(pin_dir) as stream:
        totals = reader.network()
        events = stream.take()
    assert totals[Counter.DENIED_SENDMSG] == 200
    assert totals[Counter.EVENTS_SENT] + totals[Counter.EVENTS_SUPPRESSED] == 200
    assert totals[Counter.EVENTS_SENT] == len(events) >= 16
    assert totals[Counter.EVENTS_SUPPRESSED] > 0
    assert sum(event.suppressed for event in events) <= totals[Counter.EVENTS_SUPPRESSED]


def test_a_denial_event_names_the_peer_and_the_place(fedge_bpf, cgroup, client, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    agent = client(cgroup)
    agent.ask("tcp", "127.0.0.1", 1234)
    agent.ask("udp", "::1", 53)
    with DenialStream(pin_dir) as stream:
        first, second = stream.take()
    assert (str(first.address), first.port, first.protocol, first.hook) == ("127.0.0.1", 1234, 6, Hook.CONNECT)
    assert (str(second.address), second.port, second.protocol, second.hook) == ("::1", 53, 17, Hook.SENDMSG)
    assert first.stamp_ns < second.stamp_ns


def test_the_selftest_passes_inside_the_guarded_cgroup_and_fails_outside(fedge_bpf, cgroup, client):
    assert client(cgroup).ask("selftest").startswith("open ")
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(cgroup).ask("selftest").startswith("enforced ")
    assert client(None).ask("selftest").startswith("open ")


UNPRIVILEGED = """
import ctypes, encodings.ascii, json, os, sys
from pathlib import Path
from fedge_agent.kernel import libbpf
from fedge_agent.kernel.errors import BpfCallError
from fedge_agent.kernel.reader import DenialStream, MapReader
from fedge_agent.kernel.records import Counter
from fedge_agent.kernel.selftest import run_selftest
from fedge_agent.kernel.doctor import refusals
from fedge_agent.kernel.capabilities import effective

# Only after the imports: the sources may lie where nobody else may read, as in a home or in mktemp's folder.
libc = ctypes.CDLL(None, use_errno=True)
for capability in range(64):
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)

pins = Path(sys.argv[1])
reader, stream = MapReader(pins), DenialStream(pins)
selftest = run_selftest(lambda: refusals(reader))
reader.switch_scheduler_probes(on=True)
def error_of(call):
    try:
        call()
    except BpfCallError as error:
        return error.errno
    return 0
def write_allow():
    fd = libbpf.open_pin(pins / "fedge_allow", read_only=True)
    libbpf.checked(libbpf.library().bpf_map_update_elem(fd, bytes(24), bytes(4), 0), "update")
print(json.dumps({
    "capabilities": effective(), "enforced": selftest.enforced, "counted": selftest.counted,
    "events": len(stream.take()), "probes": reader.scheduler_probes_on(),
    "open_allow_for_writing": error_of(lambda: libbpf.open_pin(pins / "fedge_allow")),
    "write_allow": error_of(write_allow),
    "open_link": error_of(lambda: libbpf.open_pin(pins / "fedge_connect4")),
    "open_counters_for_writing": error_of(lambda: libbpf.open_pin(pins / "fedge_count")),
}))
"""


def test_a_process_without_any_capability_reads_all_and_can_change_only_the_switch(fedge_bpf, cgroup, pin_dir):
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing; apt install util-linux")
    nobody = 65534
    fedge_bpf("attach", "--cgroup", str(cgroup), "--reader-gid", str(nobody))
    pin_dir.parent.chmod(0o711)
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
    done = subprocess.run(
        [*inside, sys.executable, "-c", UNPRIVILEGED, str(pin_dir)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "capabilities": 0,
        "enforced": True,
        "counted": 4,
        "events": 4,
        "probes": True,
        "open_allow_for_writing": errno.EACCES,
        "write_allow": errno.EPERM,
        "open_link": errno.EACCES,
        "open_counters_for_writing": errno.EACCES,
    }
