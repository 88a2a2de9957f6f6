"""The policy that stands in agent.toml: put in force, changed while connections are open, refused when it is wrong."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedge_agent.kernel.endpoints import read_endpoints
from fedge_agent.kernel.reader import DenialStream, MapReader
from fedge_agent.kernel.records import Counter, DenialReason

FILES_ONLY = 'mount --bind "$0" /etc/nsswitch.conf && exec "$@"'


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    def write(*rules: str, more: str = "") -> str:
        path = tmp_path / "agent.toml"
        listed = ", ".join(json.dumps(rule) for rule in rules)
        path.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = [{listed}]\n{more}\n')
        return str(path)

    return write


def test_a_host_name_is_resolved_allowed_and_published(fedge_bpf, cgroup, client, server, config, tmp_path):
    path = config(f"localhost:{port_of(server)}/tcp")
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", path)
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    (found,) = read_endpoints(tmp_path / "run-bpf" / "endpoints", owner_uid=os.geteuid())
    assert (found.host, found.port, found.protocol) == ("localhost", port_of(server), "tcp")
    assert "127.0.0.1" in [str(address) for address, until in found.addresses if until is not None]


def test_refresh_puts_a_changed_policy_in_force_without_touching_the_programs(
    fedge_bpf, cgroup, client, links, server, config
):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config())
    before = links()
    agent = client(cgroup)
    assert agent.ask("tcp", "127.0.0.1", port_of(server)) == "EPERM"
    fedge_bpf("refresh", "--config", config(f"127.0.0.1:{port_of(server)}/tcp"))
    assert agent.ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    fedge_bpf("refresh", "--config", config())
    assert agent.ask("tcp", "127.0.0.1", port_of(server)) == "EPERM"
    assert links() == before


@pytest.mark.parametrize("command", ["attach", "refresh"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("127.0.0.1/40:1/tcp", "127.0.0.1/40"),
        ("127.0.0.1:0/tcp", "port 0 is not in 1-65535"),
        ("no-such-host.invalid:1/tcp", "is not known"),
    ],
)
def test_a_bad_rule_is_refused_with_file_and_line_and_the_old_policy_stays(
    fedge_bpf, cgroup, client, server, config, tmp_path, command, rule, words
):
    good = f"127.0.0.1:{port_of(server)}/tcp"
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config(good))
    published = (tmp_path / "run-bpf" / "endpoints").read_text()
    files = tmp_path / "nsswitch.conf"
    files.write_text("hosts: files\n")  # so that an unknown name is unknown, whatever resolver this machine has
    more = ("--cgroup", str(cgroup)) if command == "attach" else ()
    path = config(good, rule)
    done = fedge_bpf(command, "--config", path, *more, check=False, wrapper=("sh", "-c", FILES_ONLY, str(files)))
    assert done.returncode == 78
    assert f"{path}:3: " in done.stderr
    assert words in done.stderr
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
    assert (tmp_path / "run-bpf" / "endpoints").read_text() == published


def test_audit_mode_refuses_nothing_and_tells_what_it_would_have_refused(fedge_bpf, cgroup, client, server, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "audit")
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    with MapReader(pin_dir) as reader, DenialStream(pin_dir) as stream:
        totals, events = reader.network(), stream.take()
    assert totals[Counter.DENIED_CONNECT] == 1
    assert totals[Counter.DENIED_EGRESS] >= 1
    assert totals[Counter.AUDITED] == totals[Counter.DENIED_CONNECT] + totals[Counter.DENIED_EGRESS]
    assert {event.audited for event in events} == {True}
    assert {event.port for event in events} == {port_of(server)}
    assert {event.reason for event in events} == {DenialReason.NOT_ALLOWED}


def test_the_mode_changes_with_a_refresh(fedge_bpf, cgroup, client, server, config):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config(more='network = "audit"'))
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    fedge_bpf("refresh", "--config", config(more='network = "require"'))
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "EPERM"


def test_off_takes_the_guard_away_and_keeps_telemetry(fedge_bpf, cgroup, client, server, links):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "off")
    assert client(cgroup).ask("tcp", "127.0.0.1", port_of(server)) == "ok"
    assert "fedge_exec" in links()
    assert "fedge_connect4" not in links()


@pytest.mark.parametrize(("mode", "status"), [("require", 1), ("prefer", 0), ("audit", 0)])
def test_where_the_kernel_cannot_enforce_only_require_fails(fedge_bpf, cgroup, tmp_path, mode, status):
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", mode, objects=tmp_path, check=False)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1 or mode == "require"
    assert ("network admission is off" in done.stderr) is (status == 0)


def test_refresh_without_programs_names_the_cure(fedge_bpf, bpffs):
    done = fedge_bpf("refresh", check=False)
    assert done.returncode == 1
    assert "run fedge-bpf attach" in done.stderr


def budget_of(fedge_bpf: Callable[..., subprocess.CompletedProcess[str]]) -> int:
    found = json.loads(fedge_bpf("status", "-o", "json", check=False).stdout)
    return int(found["budget"]["left_bytes"])


def transfer(agent: object, server: socket.socket, size: int) -> int:
    """Bytes that arrive of `size` sent from inside the cgroup, until nothing comes for half a second."""
    accepted, _ = server.accept()
    arrived = 0
    with accepted:
        accepted.settimeout(0.5)
        while arrived < size:
            try:
                got = len(accepted.recv(1 << 16))
            except TimeoutError:
                break
            if got == 0:
                break
            arrived += got
    return arrived


def test_a_connection_stops_dead_at_the_end_of_the_budget(fedge_bpf, cgroup, client, server, pin_dir):
    allow = ("--allow", f"127.0.0.1:{port_of(server)}/tcp")
    fedge_bpf("attach", "--cgroup", str(cgroup), *allow, "--daily-budget-mib", "1", "--rate-kib-per-s", "4096")
    agent = client(cgroup)
    assert agent.ask("keep", "tcp", "127.0.0.1", port_of(server)) == "ok"
    assert agent.ask("fill", 3_000_000).startswith("ok")
    arrived = transfer(agent, server, 3_000_000)
    assert 500_000 < arrived <= 1 << 20
    with MapReader(pin_dir) as reader, DenialStream(pin_dir) as stream:
        assert reader.network()[Counter.DENIED_BUDGET] > 0
        assert DenialReason.BUDGET_SPENT in {event.reason for event in stream.take()}


def test_a_download_uses_the_budget_too(fedge_bpf, cgroup, client, server):
    allow = ("--allow", f"127.0.0.1:{port_of(server)}/tcp")
    fedge_bpf("attach", "--cgroup", str(cgroup), *allow, "--daily-budget-mib", "1")
    agent = client(cgroup)
    assert agent.ask("keep", "tcp", "127.0.0.1", port_of(server)) == "ok"
    accepted, _ = server.accept()
    with accepted:
        accepted.sendall(bytes(200_000))
        assert agent.ask("receive", 200_000) == "ok 200000"
    assert budget_of(fedge_bpf) < (1 << 20) - 200_000


def test_the_budget_survives_detach_and_attach_and_a_new_day_fills_it(fedge_bpf, cgroup, client, server, tmp_path):
    options = ("--allow", f"127.0.0.1:{port_of(server)}/tcp", "--daily-budget-mib", "1")
    fedge_bpf("attach", "--cgroup", str(cgroup), *options)
    agent = client(cgroup)
    assert agent.ask("keep", "tcp", "127.0.0.1", port_of(server)) == "ok"
    assert agent.ask("fill", 100_000).startswith("ok")
    assert transfer(agent, server, 100_000) == 100_000
    left = budget_of(fedge_bpf)
    assert left < (1 << 20) - 100_000
    fedge_bpf("attach", "--cgroup", str(cgroup), *options)
    assert budget_of(fedge_bpf) <= left
    fedge_bpf("detach")
    saved = json.loads((tmp_path / "budget").read_text())
    assert saved["left_bytes"] <= left
    fedge_bpf("attach", "--cgroup", str(cgroup), *options)
    assert budget_of(fedge_bpf) <= left

    fedge_bpf("detach")
    (tmp_path / "budget").write_text(json.dumps(saved | {"day": saved["day"] - 1}))
    fedge_bpf("attach", "--cgroup", str(cgroup), *options)
    assert budget_of(fedge_bpf) == 1 << 20


def test_a_damaged_budget_file_counts_as_a_spent_day(fedge_bpf, cgroup, tmp_path):
    (tmp_path / "budget").write_text("{")
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--daily-budget-mib", "1")
    assert "today counts as spent" in done.stderr
    assert budget_of(fedge_bpf) == 0


def test_save_writes_what_the_kernel_counts(fedge_bpf, cgroup, tmp_path):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--daily-budget-mib", "2")
    fedge_bpf("save")
    assert json.loads((tmp_path / "budget").read_text())["left_bytes"] == 2 << 20
    fedge_bpf("attach", "--cgroup", str(cgroup))
    (tmp_path / "budget").unlink()
    fedge_bpf("save")
    assert not (tmp_path / "budget").exists()


def test_a_connection_is_paced_without_a_drop(fedge_bpf, cgroup, client, server, pin_dir):
    """The kernel's own number of the connection's pace, and nothing lost; how exact it is stands in bench/kernel.py."""
    options = ("--allow", f"127.0.0.1:{port_of(server)}/tcp", "--rate-kib-per-s", "512")
    fedge_bpf("attach", "--cgroup", str(cgroup), *options)
    agent = client(cgroup)
    assert agent.ask("keep", "tcp", "127.0.0.1", port_of(server)) == "ok"
    assert agent.ask("pace") == f"ok {512 * 1024}"
    assert agent.ask("fill", 300_000).startswith("ok")
    assert transfer(agent, server, 300_000) == 300_000
    with MapReader(pin_dir) as reader:
        totals = reader.network()
        assert sum(reader.srtt()) > 0
    assert totals[Counter.PACED] == 1
    assert totals[Counter.PACE_FAILED] == totals[Counter.DENIED_EGRESS] == totals[Counter.DENIED_BUDGET] == 0


def test_the_loader_writes_beside_the_daemons_directory_without_a_capability_to_override(
    fedge_bpf, cgroup, server, config, tmp_path
):
    """As under systemd: the runtime directory is the daemon's own, and the loader keeps five capabilities."""
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    path = config(f"127.0.0.1:{port_of(server)}/tcp")
    assert fedge_bpf("attach", "--cgroup", str(cgroup), "--config", path).stderr == ""
    assert fedge_bpf("refresh", "--config", path).stderr == ""
    assert len(read_endpoints(tmp_path / "run-bpf" / "endpoints", owner_uid=os.geteuid())) == 1
    into_daemons = ("--endpoints", str(tmp_path / "run" / "endpoints"))
    assert "its directory must be root's" in fedge_bpf("refresh", "--config", path, *into_daemons).stderr
