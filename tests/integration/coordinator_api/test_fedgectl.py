"""`fedgectl` as a process, against the real API on a real socket."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedge_coordinator.api.views import Event
from fedge_coordinator.store.jobs import Progress
from fedge_coordinator.store.journal import RoundKey, RoundStatus
from fedge_protocol.jobspec import parse

FEDGECTL = (sys.executable, "-c", "from fedge_coordinator.cli import main; main()")
Document = dict[str, Any]


@dataclass
class Result:
    code: int
    out: str
    err: str


async def fedgectl(api, *arguments: str, given: str = "") -> Result:
    process = await asyncio.create_subprocess_exec(
        *FEDGECTL,
        *arguments,
        env=os.environ | {"FEDGE_SOCKET": str(api.socket)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def watched(api) -> None:
    while not api.hub._watchers:  # noqa: ASYNC110 - the hub tells nobody that it is watched
        await asyncio.sleep(0.01)


async def start(api, document: Document) -> None:
    api.store.jobs.apply(parse(document))
    api.store.jobs.start("digits", b"g" * 32, b"w" * 32)


async def test_a_job_is_applied_twice_and_listed(api, document: Document, tmp_path: Path):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    dry = await fedgectl(api, "apply", "-f", str(tmp_path / "job.yaml"), "--dry-run")
    assert (dry.code, dry.out) == (0, "job/digits created (dry run)\n")
    first = await fedgectl(api, "apply", "-f", str(tmp_path / "job.yaml"))
    again = await fedgectl(api, "apply", "-f", "-", given=json.dumps(document))
    assert (first.out, again.out) == ("job/digits created\n", "job/digits unchanged\n")
    assert "below the secure floor of 16" in first.err
    table = await fedgectl(api, "get", "jobs")
    assert table.out.split()[:7] == ["NAME", "STATUS", "ROUNDS", "PHASE", "METRICS", "COHORT", "AGE"]
    assert "below the secure floor of 16" in table.out
    assert (await fedgectl(api, "get", "jobs", "-o", "name")).out == "job/digits\n"
    assert json.loads((await fedgectl(api, "get", "jobs", "-o", "json")).out)[0]["belowSecureFloor"] is True
    assert yaml.safe_load((await fedgectl(api, "get", "jobs", "digits", "-o", "yaml")).out)[0]["name"] == "digits"


async def test_every_fault_is_shown_with_its_line_and_nothing_is_applied(api, document: Document, tmp_path: Path):
    document["spec"]["training"]["epochz"] = 3
    document["spec"]["rollout"]["rounds"] = 0
    text = yaml.safe_dump(document)
    (tmp_path / "job.yaml").write_text(text)
    line = text.splitlines().index("    epochz: 3") + 1
    result = await fedgectl(api, "apply", "-f", str(tmp_path / "job.yaml"))
    assert result.code == 5
    assert f"{tmp_path}/job.yaml:{line}: spec.training.epochz: unknown field; did you mean 'epochs'?" in result.err
    assert "2 faults" in result.err
    assert "cure:" in result.err
    assert api.store.jobs.all() == []


async def test_a_refusal_of_the_coordinator_is_shown_with_its_cure(api, document: Document):
    await start(api, document)
    document["spec"]["model"]["seed"] = 7
    result = await fedgectl(api, "apply", "-f", "-", given=json.dumps(document))
    assert result.code == 5
    assert "keeps its model" in result.err
    assert "another metadata.name" in result.err


async def test_a_job_is_steered(api, document: Document):
    await start(api, document)
    assert (await fedgectl(api, "pause", "job", "digits")).out == "job/digits paused\n"
    assert (await fedgectl(api, "resume", "digits")).out == "job/digits running\n"
    unasked = await fedgectl(api, "cancel", "digits")
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    cancelled = await fedgectl(api, "cancel", "job/digits", "--yes")
    assert cancelled.out == "job/digits cancelled\n"
    assert "below the secure floor of 16" in cancelled.err
    assert (await fedgectl(api, "resume", "digits")).code == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("describe", "job", "nope"),
        ("get", "jobs", "nope"),
        ("get", "rounds", "-j", "nope"),
        ("describe", "round", "digits/9"),
        ("describe", "device", "ff"),
        ("pause", "nope"),
    ],
)
async def test_what_is_not_there_is_four(api, document: Document, arguments: tuple[str, ...]):
    await start(api, document)
    result = await fedgectl(api, *arguments)
    assert result.code == 4
    assert result.err.startswith("error: ")
    assert "cure: " in result.err


async def test_a_round_and_a_job_are_described(api, document: Document):
    await start(api, document)
    key = RoundKey("digits", 1, 0)
    api.store.journal.open(key, b"plan")
    api.store.journal.finish(key, RoundStatus.FINISHED, b"record")
    api.store.jobs.advance(Progress("digits", 1, 0, 5_000, 7, 1, 900, {"accuracy": 0.75}), b"n" * 32)
    shown = await fedgectl(api, "describe", "round", "digits/1")
    assert re.search(r"^Participants: +7$", shown.out, re.MULTILINE)
    assert (b"n" * 32).hex() in shown.out
    assert "below the secure floor of 16" in shown.out
    job = await fedgectl(api, "describe", "job", "digits")
    assert "1 of 3 done" in job.out
    assert "below the secure floor of 16" in job.out
    rounds = await fedgectl(api, "get", "rounds")
    assert "accuracy=0.75" in rounds.out
    assert "below the secure floor of 16" in rounds.out
    assert "below the secure floor of 16" in (await fedgectl(api, "get", "checkpoints")).out


async def test_a_duplicate_identity_is_shown_with_its_cure_and_accepted_again(api):
    device = "ab" * 16
    api.store.devices.presence(device, online=True, version="0.1", missing_features=0)
    api.store.sessions.adopt(device, 3, b"s" * 16, machine=b"m" * 32, hardware=b"h" * 32)
    api.store.sessions.mark(device, "other-host")
    listed = await fedgectl(api, "get", "devices")
    assert "duplicate identity" in listed.out
    assert (
        json.loads((await fedgectl(api, "get", "devices", "-o", "json")).out)[0]["duplicate"]["reason"] == "other-host"
    )
    described = await fedgectl(api, "describe", "device", "ab")
    assert re.search(r"^Status: +duplicate identity$", described.out, re.MULTILINE)
    assert "on another machine than before" in described.out
    assert f"fedgectl devices accept {device}" in described.out

    unasked = await fedgectl(api, "devices", "accept", "ab")
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    assert api.store.sessions.duplicate(device) is not None
    accepted = await fedgectl(api, "devices", "accept", "ab", "--yes")
    assert (accepted.code, accepted.out) == (0, f"device/{device} accepted: online\n")
    assert api.store.sessions.duplicate(device) is None
    assert api.store.sessions.lineage(device).hardware == b"", "it may be in another machine now"
    assert api.store.sessions.lineage(device).counter == 3, "but has to remember"
    again = await fedgectl(api, "devices", "accept", device, "--yes", "-o", "json")
    assert json.loads(again.out)["duplicate"] is None
    assert (await fedgectl(api, "devices", "accept", "cd", "--yes")).code == 4


async def test_what_a_device_sends_cannot_steer_the_terminal(api):
    api.store.devices.presence("ab" * 16, online=True, version="\x1b]0;evil\x07", missing_features=0)
    api.store.devices.refused("ab" * 16, "not-admitted", "\x9b31m")
    for arguments in (("get", "devices"), ("describe", "device", "ab")):
        result = await fedgectl(api, *arguments)
        assert result.code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(result.out)


async def test_a_watch_prints_each_change_and_stops_with_the_coordinator(api, document: Document):
    await start(api, document)
    process = await asyncio.create_subprocess_exec(
        *FEDGECTL, "get", "rounds", "--watch", "-o", "json",
        env=os.environ | {"FEDGE_SOCKET": str(api.socket)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await watched(api)
    key = RoundKey("digits", 1, 0)
    api.store.journal.open(key, b"plan")
    api.hub.publish(Event("round-opened", 1, {"job": "digits", "round": 1}))
    assert json.loads(await process.stdout.readline())["status"] == "open"
    api.store.journal.finish(key, RoundStatus.ABORTED, b"")
    api.hub.publish(Event("round-aborted", 2, {"job": "digits", "round": 1}))
    assert json.loads(await process.stdout.readline())["status"] == "aborted"
    api.hub.close()
    _, err = await process.communicate()
    assert process.returncode == 3
    assert b"the coordinator stopped" in err


async def test_an_interrupted_watch_is_130_and_shows_no_traceback(api):
    process = await asyncio.create_subprocess_exec(
        *FEDGECTL, "get", "jobs", "-w",
        env=os.environ | {"FEDGE_SOCKET": str(api.socket)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    await watched(api)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in out + err
    assert b"interrupted" in err


def ask(socket: Path, *arguments: str) -> Result:
    done = subprocess.run(
        [*FEDGECTL, *arguments, "--socket", str(socket)], capture_output=True, text=True, check=False, timeout=60
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_a_coordinator_that_does_not_run_is_three(tmp_path: Path):
    result = ask(tmp_path / "api.sock", "get", "jobs")
    assert result.code == 3
    assert "no coordinator runs here" in result.err
    assert "cure: systemctl start fedge-coordinator" in result.err


def test_a_ca_that_does_not_run_is_three(tmp_path: Path):
    done = subprocess.run(
        [*FEDGECTL, "token", "list", "--ca-socket", str(tmp_path / "ca.sock")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "no CA runs here" in done.stderr
