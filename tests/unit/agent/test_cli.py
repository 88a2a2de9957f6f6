import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedge_agent import accepted_enrolment, cli, control, leave_command
from fedge_agent.config import EX_CONFIG
from fedge_agent.store import DeviceStore

STATUS = {
    "device": "0" * 32,
    "fleet": "lab",
    "status": "waiting for a round",
    "connected": True,
    "admission": {"state": "idle", "reason": "no-job", "text": "no job asks for training"},
    "network_admission": {"enforced": True, "detail": "", "counters": {}},
    "prekeys": 32,
    "outcomes": {"included": 3, "aborted": 1},
    "warnings": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(f'state_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}/run"\n')
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return cli.main(["--config", str(folder / "agent.toml"), *words])


@contextmanager
def answering(folder: Path, **handlers: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """The real control socket with these answers, in a thread of its own."""
    started, loops = threading.Event(), []

    async def serve(stop: asyncio.Event) -> None:
        server = await control.serve(folder / "run" / "control.sock", handlers)
        started.set()
        await stop.wait()
        server.close()

    def work() -> None:
        async def main() -> None:
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            await serve(stop)

        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def test_status_for_people_and_for_programs(folder, capsys):
    with answering(folder, status=lambda: STATUS):
        assert run(folder, "status") == cli.EX_OK
        text = capsys.readouterr().out
        assert "waiting for a round" in text
        assert "prekeys: 32; rounds: 1 aborted, 3 included" in text
        assert run(folder, "status", "--json") == cli.EX_OK
        assert json.loads(capsys.readouterr().out) == STATUS


@pytest.mark.parametrize("changes", [{"connected": False}, {"warnings": ["network admission is not enforced"]}])
def test_a_degraded_agent_has_an_exit_status_of_its_own(folder, capsys, changes):
    with answering(folder, status=lambda: STATUS | changes):
        assert run(folder, "status") == cli.EX_DEGRADED
    assert all(warning in capsys.readouterr().out for warning in changes.get("warnings", []))


def test_pause_and_resume_say_what_stands_now(folder, capsys):
    with answering(folder, pause=lambda: {"admission": "paused now"}):
        assert run(folder, "pause") == cli.EX_OK
        assert capsys.readouterr().out == "paused now\n"
        assert run(folder, "resume") == cli.EX_UNREACHABLE  # an older daemon that does not know it
        assert "unknown command" in capsys.readouterr().err


def test_without_a_daemon_commands_say_so(folder, capsys):
    for command in ("status", "pause", "resume"):
        assert run(folder, command) == cli.EX_UNREACHABLE
        assert "no daemon answers" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_used_is_told_with_its_line(folder, capsys):
    (folder / "agent.toml").write_text("\ncolour = 1")
    assert run(folder, "status") == EX_CONFIG
    assert re.search(r"agent\.toml:2: colour", capsys.readouterr().err)


def test_the_outbox_lists_everything_that_left_the_device(folder, capsys):
    assert run(folder, "outbox") == cli.EX_NOT_ENROLLED
    assert "nothing has left this device" in capsys.readouterr().err
    store = DeviceStore(folder / "state.db", lambda: 1_700_000_000_000)
    assert run(folder, "outbox") == cli.EX_OK
    assert capsys.readouterr().out == "nothing yet\n"
    store.sign_once("", 1, 0, "prekeys", b"body", lambda _: b"message")
    store.sign_once("digits", 2, 0, "ready", b"body", lambda _: b"another message")
    assert run(folder, "outbox") == cli.EX_OK
    assert capsys.readouterr().out.splitlines() == [
        "1700000000000  digits  round 2  ready  15 bytes  waiting",
        "1700000000000  -  round 1  prekeys  7 bytes  waiting",
    ]
    assert run(folder, "outbox", "--last", "1", "-o", "json") == cli.EX_OK
    (only,) = json.loads(capsys.readouterr().out)["messages"]
    assert only["kind"] == "ready"
    store.close()


@pytest.mark.parametrize("payout", ["0x12", "12" * 20, "0x" + "zz" * 20, "0x" + "12" * 21])
def test_a_payout_that_is_no_address_is_refused_before_anything_is_sent(folder, capsys, payout):
    assert run(folder, "enroll", "fedge1.token", "--payout", payout) == cli.EX_USAGE
    assert "40 hexadecimal digits" in capsys.readouterr().err


def test_a_token_that_is_none_is_refused(folder, capsys):
    assert run(folder, "enroll", "nonsense") == cli.EX_FAILED
    assert "no enrolment token" in capsys.readouterr().err


def test_usage_errors_are_usage_errors(folder):
    for words in ([], ["dance"], ["status", "-o", "xml"]):
        with pytest.raises(SystemExit) as caught:
            run(folder, *words)
        assert caught.value.code == cli.EX_USAGE


def test_config_check_names_every_layer_and_what_is_no_default(folder, capsys, monkeypatch):
    (folder / "agent.d").mkdir()
    (folder / "agent.d" / "50-lab.toml").write_text("[worker]\nmemory_max_mib = 300\n")
    monkeypatch.setenv("FEDGE_CONSENT__MAX_EPOCHS", "7")
    monkeypatch.setenv("FEDGE_LOGLEVEL", "debug")
    assert run(folder, "config", "check") == cli.EX_OK
    said = capsys.readouterr()
    assert f"{folder}/agent.toml: good" in said.out
    assert re.search(rf"^worker.memory_max_mib = 300 +{folder}/agent.d/50-lab.toml:2$", said.out, re.MULTILINE)
    assert re.search(r"^consent.max_epochs = 7 +environment: FEDGE_CONSENT__MAX_EPOCHS$", said.out, re.MULTILINE)
    assert "did you mean FEDGE_LOG_LEVEL?" in said.err
    assert run(folder, "config", "check", "-o", "json") == cli.EX_OK
    found = json.loads(capsys.readouterr().out)
    assert found["good"]
    assert {row["name"] for row in found["changed"]} > {"worker.memory_max_mib", "consent.max_epochs", "state_dir"}


def test_config_check_refuses_what_the_privileged_loader_would_refuse(folder, capsys):
    (folder / "agent.toml").chmod(0o666)
    assert run(folder, "config", "check") == EX_CONFIG
    assert "chmod go-w" in capsys.readouterr().err
    assert run(folder, "config", "check", "-o", "json") == EX_CONFIG
    assert json.loads(capsys.readouterr().out)["good"] is False


def test_config_show_lists_every_setting(folder, capsys):
    assert run(folder, "config", "show") == cli.EX_OK
    text = capsys.readouterr().out
    assert re.search(rf'^state_dir = "{folder}" +{folder}/agent.toml:1$', text, re.MULTILINE)
    assert re.search(r"^consent.minimum_cohort = 16 +default$", text, re.MULTILINE)
    assert run(folder, "config", "show", "-o", "json") == cli.EX_OK
    assert len(json.loads(capsys.readouterr().out)["settings"]) > 35


def test_a_device_that_belongs_to_no_fleet_has_no_rewards(folder, capsys):
    assert run(folder, "rewards") == cli.EX_NOT_ENROLLED
    assert "fedge-agent enroll TOKEN" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights and takes them back; cure: run the tests as root")
def test_root_leaves_as_the_owner_of_the_state_and_forgets_as_root(folder, monkeypatch):
    seen: list[int] = []

    def left(*_: object) -> int:
        seen.append(os.geteuid())
        return cli.EX_OK

    os.chown(folder, 65534, 65534)
    monkeypatch.setattr(leave_command, "leave_fleet", left)
    monkeypatch.setattr(accepted_enrolment, "forget", lambda _: seen.append(os.geteuid()))
    assert run(folder, "leave", "--yes") == cli.EX_OK
    assert seen == [65534, 0]
