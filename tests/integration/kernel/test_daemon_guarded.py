"""The real daemon in a guarded cgroup: where it connects, what it says when it may not, and what its death changes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.test_daemon import enrol

from fedge_agent import control
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter

AGENT = [sys.executable, "-c", "import sys; from fedge_agent.cli import main; sys.exit(main())"]
IN_CGROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
PORT = 18_883


class Daemon:
    """An enrolled `fedge-agent`, its configuration and its processes."""

    def __init__(self, folder: Path, pin_dir: Path, cgroup: Path) -> None:
        self.config = folder / "agent.toml"
        self.state = folder / "state"
        self.socket = folder / "run" / "control.sock"
        self.wanted = folder / "run" / "refresh-wanted"
        self._cgroup = cgroup
        self._head = f'state_dir = "{self.state}"\nruntime_dir = "{folder}/run"\n'
        self._pins = f'pin_dir = "{pin_dir}"\ntelemetry_mib = 0\n'
        self.process: subprocess.Popen[str] | None = None

    def configure(self, kernel: str, network: str = "") -> str:
        self.config.write_text(f"{self._head}[network]\n{network}\n[kernel]\n{self._pins}{kernel}\n")
        return str(self.config)

    def command(self) -> list[str]:
        return ["sh", "-c", IN_CGROUP, str(self._cgroup), *AGENT, "--config", str(self.config), "run"]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), stderr=subprocess.PIPE, text=True)
        while True:
            try:
                self.status()
            except control.DaemonUnreachableError:
                assert self.process.poll() is None, self.process.communicate()[1]
                time.sleep(0.02)
            else:
                return

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = control.ask(self.socket, "status")
        return found

    def until(self, words: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while words not in (found := self.status())["status"]:
            assert time.monotonic() < deadline, found["status"]
            time.sleep(0.05)
        return found

    def end(self, number: int = signal.SIGTERM) -> str:
        assert self.process is not None
        self.process.send_signal(number)
        said = self.process.communicate(timeout=30)[1]
        self.process = None
        return said


@pytest.fixture
def daemon(tmp_path: Path, pin_dir: Path, cgroup: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, pin_dir, cgroup)
    made.state.mkdir(mode=0o700)
    enrol(made.state, tmp_path / "ca.db", days_ago=0)
    yield made
    if made.process is not None:
        made.end(signal.SIGKILL)


@pytest.fixture
def hosts(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    def make(*lines: str) -> tuple[str, ...]:
        path = tmp_path / "hosts"
        path.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        return ("unshare", "-m", "sh", "-c", HOSTS, str(path))

    return make


def test_the_daemon_waits_for_the_refresher_says_so_and_goes_where_it_allows(fedge_bpf, cgroup, daemon, hosts, pin_dir):
    allow = 'network = "require"\nallow = ["127.0.0.1:9/udp"]'
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", daemon.configure(allow), wrapper=hosts())
    daemon.configure(allow, f'broker = "mqtts://mq.example:{PORT}"')
    daemon.start()
    found = daemon.until("no address of mq.example is allowed: waiting for the refresher")
    assert found["network_admission"]["enforced"]
    assert found["way_out"] == {
        "broker": f"mqtts://mq.example:{PORT}",
        "addresses_from": "the refresher",
        "proxy": None,
        "budget_left_bytes": None,
    }
    assert daemon.wanted.exists()
    with MapReader(pin_dir) as reader:
        before = reader.network()
    fedge_bpf("refresh", "--config", str(daemon.config), wrapper=hosts("127.0.0.1 mq.example"))
    daemon.until(f"127.0.0.1 port {PORT}: ")  # nobody listens there, but there it went
    with MapReader(pin_dir) as reader:
        after = reader.network()
    refused = (Counter.DENIED_CONNECT, Counter.DENIED_SENDMSG, Counter.DENIED_EGRESS)
    assert [after[counter] for counter in refused] == [
        before[counter] for counter in refused
    ]  # no name server was asked


def test_a_daemon_that_is_killed_leaves_the_guard_with_the_rest_of_its_unit(
    fedge_bpf, cgroup, client, daemon, links, hosts
):
    config = daemon.configure(f'network = "require"\nallow = ["127.0.0.1:{PORT}/tcp"]')
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, wrapper=hosts())
    beside = client(cgroup)
    before = links()
    daemon.start()
    daemon.end(signal.SIGKILL)
    assert links() == before
    assert beside.ask("tcp", "127.0.0.1", PORT) == "ECONNREFUSED"
    assert beside.ask("tcp", "127.0.0.1", PORT + 1) == "EPERM"
    daemon.start()
    assert daemon.status()["network_admission"]["enforced"]


def test_require_does_not_start_the_daemon_where_nothing_is_enforced(daemon, root_privilege):
    daemon.configure('network = "require"')
    done = subprocess.run(daemon.command(), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "forbidden peers are not refused" in done.stderr
    assert "run fedge-bpf attach" in done.stderr


def test_prefer_says_in_one_line_what_is_off_and_what_it_costs_and_counts_its_own_bytes(daemon, root_privilege):
    daemon.configure('network = "prefer"\ndaily_budget_mib = 4\nrate_kib_per_s = 100')
    daemon.start()
    found = daemon.until("not connected to the broker")
    assert not found["network_admission"]["enforced"]
    assert found["way_out"]["addresses_from"] == "the system's resolver"
    assert 4 * 1024 * 1024 - 100_000 < found["way_out"]["budget_left_bytes"] <= 4 * 1024 * 1024
    said = daemon.end()
    (line,) = [line for line in said.splitlines() if "does not guard the network" in line]
    assert "there is no allow-list" in line
    assert "the pace is asked for by the agent itself" in line
    assert "the daily budget of 4 MiB is counted by the agent itself" in line
    assert "cure: fedge-bpf attach" in line
    kept = json.loads((daemon.state / "network-budget.json").read_text())
    assert kept["left_bytes"] == found["way_out"]["budget_left_bytes"]
    assert (daemon.state / "network-budget.json").stat().st_mode & 0o077 == 0


def test_a_spent_budget_keeps_the_daemon_off_the_network_over_restarts(daemon, root_privilege):
    daemon.configure('network = "prefer"\ndaily_budget_mib = 4')
    today = int(time.time() // 86_400)
    record = {"version": 1, "left_bytes": 0, "limit_bytes": 4 * 1024 * 1024, "day": today}
    path = daemon.state / "network-budget.json"
    path.write_text(json.dumps(record))
    path.chmod(0o600)
    for _ in range(2):
        daemon.start()
        found = daemon.until("not connected to the broker: the day's bytes are spent")
        assert found["way_out"]["budget_left_bytes"] == 0
        daemon.end(signal.SIGKILL)
