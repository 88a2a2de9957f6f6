"""`fedgectl token` and `fedgectl devices` against a real CA in its own process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_CA = (sys.executable, "-m", "fedge_coordinator.enrolment.cli")


@pytest.fixture(scope="module")
def ca_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ca") / "ca"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = ("--listen", f"127.0.0.1:{port}", "--name", "localhost")
    subprocess.run([*_CA, "init", "--fleet", "lab", "--dir", str(folder), *listen], check=True, capture_output=True)
    with subprocess.Popen([*_CA, "run", "--dir", str(folder)], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (folder / "ca.sock").is_socket() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        yield folder / "ca.sock"
        process.send_signal(signal.SIGTERM)
        process.communicate()


def fedgectl(ca_socket: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from fedge_coordinator.cli import main; main()", *arguments],
        env=os.environ | {"FEDGE_CA_SOCKET": str(ca_socket)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_token_is_made_listed_without_its_secret_and_revoked(ca_socket: Path):
    made = fedgectl(ca_socket, "token", "create", "--uses", "3", "--ttl", "2h", "--label", "hall 3")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("fedge1.")
    listed = fedgectl(ca_socket, "token", "list")
    assert "valid" in listed.stdout
    assert "hall 3" in listed.stdout
    assert made.stdout.strip() not in listed.stdout
    (state,) = json.loads(fedgectl(ca_socket, "token", "list", "-o", "json").stdout)
    assert state["uses_left"] == 3
    assert "revoked" in fedgectl(ca_socket, "token", "revoke", state["id"]).stdout


@pytest.mark.parametrize(
    "arguments", [("token", "revoke", "nope"), ("devices", "revoke", "ab" * 16, "--yes")], ids=" ".join
)
def test_what_the_ca_does_not_know_is_four(ca_socket: Path, arguments: tuple[str, ...]):
    done = fedgectl(ca_socket, *arguments)
    assert done.returncode == 4
    assert "cure: " in done.stderr


def test_a_device_is_not_revoked_without_being_asked(ca_socket: Path):
    assert fedgectl(ca_socket, "devices", "revoke", "ab" * 16).returncode == 2


def test_wishes_out_of_bounds_are_refused(ca_socket: Path):
    assert fedgectl(ca_socket, "token", "create", "--ttl", "forever").returncode == 2
    assert fedgectl(ca_socket, "token", "create", "--label", "x" * 65).returncode == 5
