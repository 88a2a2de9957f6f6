"""Secrets planted wherever a bug report looks, and in places where it must not look; none of them may be in it."""

import argparse
import asyncio
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedge_agent import bugreport_command, cli, control
from fedge_agent.bugreport.sections import hosts_written
from fedge_agent.identity.enroll import enroll
from fedge_agent.store import DeviceStore
from fedge_protocol.secagg.prekeys import generate

SECRET = "hunter2-open-sesame"  # noqa: S105 - planted
SHIPPED = Path(__file__).parents[3] / "debian" / "agent.toml"
OTHER_DEVICE = "fe" * 16
OTHER_ADDRESS = "0x" + "ab" * 20
PEER = "203.0.113.77"
PEER_6 = "2001:db8:77::1"
SAMPLE = 1234.56789


@contextmanager
def daemon_saying(socket, status) -> Iterator[None]:
    started, loops = threading.Event(), []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        server = await control.serve(socket, {"status": lambda: status})
        started.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def members(path) -> dict[str, str]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


@pytest.fixture
def planted(ca, tmp_path, monkeypatch):
    """A really enrolled device with secrets everywhere; gives the configuration's path and what must not be found."""
    state, data = tmp_path / "state", tmp_path / "samples"
    token = ca.token()
    enrolment = enroll(token, state)
    data.mkdir()
    np.savetxt(data / "patient-miller.csv", np.full((3, 2), SAMPLE), delimiter=",")
    (tmp_path / "agent.d").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'# password = "{SECRET}"\nstate_dir = "{state}"\nruntime_dir = "{tmp_path}/run"\n'
        f'[network]\nproxy = "http://gate.secret.example:3128"\nbroker = "wss://mq.secret.example"\n'
        f'[kernel]\nallow = ["proxy.secret.example:3128/tcp", "{PEER}:1/tcp", "[{PEER_6}]:2/tcp"]\n'
    )
    (tmp_path / "agent.d" / "x.toml").write_text(f'[sources.s]\nkind = "directory"\npath = "{data}"\n')
    monkeypatch.setenv("FEDGE_TOKEN", token)
    store = DeviceStore(state / "state.db", lambda: 1)
    (prekey,) = generate(1, 1)
    store.add_prekeys([prekey])
    store.sign_once("job", 1, 0, "masked", b"body", lambda _: f"{SECRET} in a message".encode())
    store.round_ended("job", 1, 0, outcome="aborted", detail=f"token {token} from {PEER}, password={SECRET}")
    store.close()
    key_lines = [
        line
        for name in ("identity.key", "chain.key", "device.pem", "ca.pem", "coordinator.pem")
        for line in (state / name).read_text().splitlines()
        if "-----" not in line
    ]
    secrets = [
        SECRET,
        token,
        token[7:40],
        OTHER_DEVICE,
        OTHER_ADDRESS[2:],
        PEER,
        PEER_6,
        "proxy.secret.example",
        "secret.example",
    ]
    secrets += [*key_lines, prekey.mask_seed.hex(), prekey.channel_private.hex(), str(SAMPLE), "patient-miller"]
    return path, enrolment, secrets, (state / "identity.key").read_text(), token


@pytest.mark.parametrize("broken", [False, True])
def test_no_planted_secret_is_in_the_report(planted, tmp_path, capsys, broken):
    path, enrolment, secrets, pem, token = planted
    noise = f"{pem}\ntoken={token} peer {PEER} {PEER_6} device {OTHER_DEVICE} pays {OTHER_ADDRESS} password: {SECRET}"
    noise += "\nproxy.secret.example, gate.secret.example:3128 and mq.secret.example; unlisted.secret.example:8883"
    asked = []

    def run(command) -> str:
        asked.append(command[0])
        return json.dumps({"detail": noise}) if "loader" in command[2] else noise

    if broken:
        path.write_text(path.read_text() + f'colour = "{SECRET}"\n')
    status = {"status": noise, "warnings": [noise], "token": SECRET, "nested": {"private_key": {"d": SECRET}}}
    out = tmp_path / "report.tar.gz"
    with daemon_saying(tmp_path / "run" / "control.sock", status):
        options = argparse.Namespace(config=path, file=out, output="text")
        assert bugreport_command.report(options, run) == cli.EX_OK
    assert {"systemctl", "journalctl"} < set(asked)
    found = members(out)
    whole = "\n".join(found.values()) + capsys.readouterr().out
    assert [secret for secret in secrets if secret in whole] == []
    assert out.stat().st_mode & 0o777 == 0o600
    assert "<pem>" in found["journal.txt"]
    assert "device <hex-" in found["journal.txt"]
    if broken:
        assert "unknown field" in found["configuration.json"]
    else:
        assert json.loads(found["enrolment.json"])["device"] == enrolment.device_id
        (ended,) = json.loads(found["decisions.json"])["rounds"]
        assert ended["outcome"] == "aborted"
        assert {row["name"] for row in json.loads(found["files.json"])} > {"identity.key", "state.db"}
        assert "samples" not in found["files.json"]


def test_nothing_but_hosts_of_the_shipped_configuration_is_taken_for_one():
    assert [name for name in hosts_written(SHIPPED) if not name.endswith(".example.org")] == []


@pytest.mark.parametrize(
    ("line", "hosts"),
    [
        ('allow = ["gateway:53/udp", "[2001:db8::1]:8883/tcp", "10.0.0.0/8:1/tcp"]', {"gateway", "2001:db8::1"}),
        ('proxy = "http://me:pw@proxy:3128"', {"proxy"}),
        ("# ask mq.example.org, says alice", {"mq.example.org"}),
        ("cpu_some = [0.05, 0.15]  # agent.d/50-x.toml, fedge-agent.service", set()),
        ("= broken [ toml mq.example.org", {"mq.example.org"}),
    ],
)
def test_hosts_are_found_in_whatever_was_written(tmp_path, line, hosts):
    (tmp_path / "agent.toml").write_text(line)
    assert set(hosts_written(tmp_path / "agent.toml")) - {"8"} == hosts


def test_the_command_says_what_the_archive_holds_and_overwrites_nothing(planted, tmp_path, capsys):
    path, *_ = planted
    out = tmp_path / "report.tar.gz"
    words = ["--config", str(path), "bugreport", "--output", str(out)]
    assert cli.main(words) == cli.EX_OK
    said = capsys.readouterr().out
    with tarfile.open(fileobj=io.BytesIO(out.read_bytes())) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers()]
        assert {member.mode for member in archive.getmembers()} == {0o600}
    assert [name for name in names if name != "README.txt" and name not in said] == []
    assert cli.main(words) == cli.EX_FAILED
    assert "choose another --output" in capsys.readouterr().err
    assert cli.main(["--config", str(path), "bugreport", "--output", str(tmp_path / "b"), "-o", "json"]) == cli.EX_OK
    assert len(json.loads(capsys.readouterr().out)["parts"]) == len(names) - 1
