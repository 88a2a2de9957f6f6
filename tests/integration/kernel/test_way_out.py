"""Under `require`: a guarded process reaches its broker by each way out, and nobody else; no name server is asked."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import FLEET
from tests.integration.proxy_fixture import PASSWORD, USER, Tinyproxy

from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter
from fedge_protocol import topics

CLIENT = Path(__file__).with_name("way_out_client.py")
IN_CGROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
WAYS = [(scheme, proxied) for scheme in ("mqtts", "wss") for proxied in (False, True)]


@pytest.fixture
def hosts(tmp_path) -> tuple[str, ...]:
    """Only the loader's resolver knows these names."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost proxy.example mq.example\n")
    return ("unshare", "-m", "sh", "-c", HOSTS, str(path))


@pytest.fixture
def within(tmp_path, cgroup, broker):
    """Runs the client in the guarded cgroup."""

    def run(host: str, port: int, **changes: Any) -> dict[str, Any]:
        name = uuid.uuid4().hex
        identity = broker.identity(name)
        asked = {
            "host": host,
            "port": port,
            "name": name,
            "ca": str(identity.ca_file),
            "cert": str(identity.cert_file),
            "key": str(identity.key_file),
            "path": None,
            "proxy": None,
            "credentials": str(tmp_path / "credentials"),
            "endpoints": str(tmp_path / "run-bpf" / "endpoints"),
            "request": str(tmp_path / "refresh-wanted"),
            "topic": topics.up(FLEET, name, "ready"),
            "forbidden": [],
            "messages": 1,
            **changes,
        }
        path = tmp_path / "asked.json"
        path.write_text(json.dumps(asked))
        command = ["sh", "-c", IN_CGROUP, str(cgroup), sys.executable, str(CLIENT), str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.mark.parametrize(("scheme", "proxied"), WAYS)
def test_each_way_out_leads_to_the_broker_and_to_nobody_else(
    fedge_bpf, cgroup, broker, within, hosts, tmp_path, pin_dir, scheme, proxied
):
    port = broker.websocket_port if scheme == "wss" else broker.port
    other = broker.port if scheme == "wss" else broker.websocket_port
    path = "/mqtt" if scheme == "wss" else None
    lines = [f'runtime_dir = "{tmp_path}/run"', "[network]", f'broker = "{scheme}://localhost:{port}"']
    changes: dict[str, Any] = {"path": path, "forbidden": [("127.0.0.1", other)]}
    if proxied:
        if not Tinyproxy.installed():
            pytest.skip("no tinyproxy here; cure: apt install tinyproxy-bin")
        proxy = Tinyproxy(tmp_path, port)
        proxy.start()
        (tmp_path / "credentials").write_text(f"{USER}:{PASSWORD}")
        (tmp_path / "credentials").chmod(0o640)
        lines.append(f'proxy = "http://proxy.example:{proxy.port}"')
        changes |= {"proxy": ("proxy.example", proxy.port), "forbidden": [("127.0.0.1", port), ("127.0.0.1", other)]}
    (tmp_path / "agent.toml").write_text("\n".join([*lines, "[kernel]", 'network = "require"', ""]))
    try:
        attached = fedge_bpf(
            "attach", "--cgroup", str(cgroup), "--config", str(tmp_path / "agent.toml"), "-o", "json", wrapper=hosts
        )
        allowed = json.loads(attached.stdout)["allowed"]
        assert allowed == [f"127.0.0.1:{proxy.port if proxied else port}/tcp"]
        said = within("localhost", port, **changes)
        if proxied:
            assert f"CONNECT localhost:{port}" in proxy.requests()[-1]
    finally:
        if proxied:
            proxy.stop()
    assert said["event"] == "connected"
    assert set(said["forbidden"]) == {"EPERM"}
    assert said["name_server"] == "EPERM"
    with MapReader(pin_dir) as reader:
        totals = reader.network()
    assert totals[Counter.DENIED_CONNECT] == len(changes["forbidden"]) + 1  # the attempts above; nothing else was tried


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_the_agents_own_count_of_bytes_is_the_kernels(fedge_bpf, cgroup, broker, within, tmp_path, pin_dir, scheme):
    port = broker.websocket_port if scheme == "wss" else broker.port
    config = tmp_path / "agent.toml"
    config.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = ["127.0.0.1:{port}/tcp"]\n')
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", str(config))
    said = within("127.0.0.1", port, path="/mqtt" if scheme == "wss" else None, messages=20)
    with MapReader(pin_dir) as reader:
        totals = reader.network()
    kernel_bytes = totals[Counter.EGRESS_BYTES] + totals[Counter.INGRESS_BYTES]
    assert kernel_bytes > 2_000_000
    assert 0.99 * kernel_bytes <= said["counted_bytes"] <= 1.01 * kernel_bytes


def test_a_name_that_is_not_allowed_is_not_connected_to_and_a_refresh_is_asked_for(
    fedge_bpf, cgroup, broker, within, hosts, tmp_path, pin_dir
):
    config = tmp_path / "agent.toml"
    config.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = ["mq.example:{broker.port}/tcp"]\n')
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", str(config), wrapper=hosts)
    said = within("localhost", broker.port)  # it is in the /etc/hosts of this very machine
    assert said["event"] == (
        "no address of localhost is allowed: waiting for the refresher (systemctl status fedge-policy)"
    )
    assert said["refresh_wanted"]
    with MapReader(pin_dir) as reader:
        assert reader.network()[Counter.DENIED_CONNECT] == 1  # the name server of the client's own attempt


def test_the_certificate_must_carry_the_name_that_was_asked_for(fedge_bpf, cgroup, broker, within, hosts, tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = ["mq.example:{broker.port}/tcp"]\n')
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", str(config), wrapper=hosts)
    assert "mq.example" in within("mq.example", broker.port)["event"]


@pytest.mark.parametrize("line", ['broker = "wss://no-such-host.invalid"', 'proxy = "http://no-such-host.invalid:1"'])
def test_a_way_out_that_does_not_exist_is_refused_with_file_and_line_and_the_old_policy_stays(
    fedge_bpf, cgroup, client, broker, tmp_path, line
):
    config = tmp_path / "agent.toml"
    config.write_text(f'[kernel]\nallow = ["127.0.0.1:{broker.port}/tcp"]\n')
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", str(config))
    config.write_text(f"[network]\n{line}\n")
    files = tmp_path / "nsswitch.conf"
    files.write_text("hosts: files\n")
    wrapper = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/nsswitch.conf && exec "$@"', str(files))
    done = fedge_bpf("refresh", "--config", str(config), check=False, wrapper=wrapper)
    assert done.returncode == 78
    assert f"{config}:2: " in done.stderr
    assert "no-such-host.invalid" in done.stderr
    assert client(cgroup).ask("tcp", "127.0.0.1", broker.port) == "ok"
    assert client(cgroup).ask("tcp", "127.0.0.1", broker.websocket_port) == "EPERM"
