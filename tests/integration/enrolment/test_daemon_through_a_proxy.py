"""The real daemon, enrolled by a real CA, at a real broker behind a real proxy; nothing guards it, and it says so."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.proxy_fixture import PASSWORD, USER, Tinyproxy

from fedge_agent import control
from fedge_agent.identity import keys
from fedge_agent.identity.enroll import enroll
from fedge_protocol import topics
from fedge_protocol.cose import context_of, decode, verify
from fedge_protocol.health import network_guarded
from fedge_protocol.messages import PRESENCE_KIND, Presence
from fedge_transport.connection import Connection
from fedge_transport.settings import ConnectionSettings

AGENT = [sys.executable, "-c", "import sys; from fedge_agent.cli import main; sys.exit(main())"]


@pytest.fixture
def proxy(tmp_path: Path, ca) -> Iterator[Tinyproxy]:
    if not Tinyproxy.installed():
        pytest.skip("no tinyproxy here; cure: apt install tinyproxy-bin")
    made = Tinyproxy(tmp_path, ca.broker_port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def daemon(tmp_path: Path, ca, proxy) -> Iterator[Path]:
    """A running daemon; gives its folder."""
    enroll(ca.token(), tmp_path / "state")
    secret = tmp_path / "secret"
    secret.write_text(f"{USER}:{PASSWORD}")
    secret.chmod(0o600)
    config = tmp_path / "agent.toml"
    config.write_text(
        f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        f'[network]\nproxy = "http://127.0.0.1:{proxy.port}"\nproxy_credentials = "{secret}"\n'
        f'[kernel]\nnetwork = "prefer"\npin_dir = "{tmp_path}/no-pins"\ndaily_budget_mib = 4\ntelemetry_mib = 0\n'
    )
    process = subprocess.Popen([*AGENT, "--config", str(config), "run"], stderr=subprocess.DEVNULL)
    yield tmp_path
    process.terminate()
    process.wait(30)


async def status(folder: Path) -> dict[str, Any]:
    """Once it is connected."""
    async with asyncio.timeout(60):
        while True:
            try:
                found = await asyncio.to_thread(control.ask, folder / "run" / "control.sock", "status")
            except control.DaemonUnreachableError:
                found = {"connected": False}
            if found["connected"]:
                return dict(found)
            await asyncio.sleep(0.05)


async def test_the_daemon_connects_through_the_proxy_and_the_coordinator_learns_that_it_is_not_guarded(
    ca, make_broker, proxy, daemon
):
    make_broker(ca)
    found = await status(daemon)
    assert found["way_out"]["proxy"] == f"127.0.0.1:{proxy.port}"
    assert 0 < found["way_out"]["budget_left_bytes"] < 4 * 1024 * 1024
    assert f"CONNECT localhost:{ca.broker_port}" in proxy.requests()[-1]
    device = str(found["device"])
    settings = ConnectionSettings(
        "localhost",
        ca.broker_port,
        "coordinator.lab",
        ca_file=ca.folder / "ca.pem",
        cert_file=ca.coordinator / "cert.pem",
        key_file=ca.coordinator / "key.pem",
    )
    async with asyncio.timeout(30), Connection(settings) as coordinator:
        await coordinator.subscribe(topics.presence("lab", device))
        message = await anext(aiter(coordinator.incoming()))
        message.ack()
    key = keys.load(daemon / "state").key.public_key()
    body = decode(verify(message.payload, key, context_of("lab", device, PRESENCE_KIND)), Presence)
    assert body.online
    assert not network_guarded(body.missing_features)
