import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedge_agent import control
from fedge_agent.control import DaemonUnreachableError


def failing() -> dict[str, object]:
    raise OSError("the disk is gone")


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "run" / "control.sock"
    server = await control.serve(path, {"status": lambda: {"answer": 42}, "fail": failing})
    yield path
    server.close()


async def ask(path: Path, command: str = "status") -> dict[str, object]:
    return await asyncio.to_thread(control.ask, path, command)


async def raw(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    await writer.drain()
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_question_gets_its_answer(path):
    assert await ask(path) == {"answer": 42}
    assert await ask(path) == {"answer": 42}


async def test_only_the_owner_and_the_group_may_ask(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"nonsense\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"[" * 4000 + b"\n", "no JSON"),
        (b"[]\n", "unknown command"),
        (b'{"command": 7}\n', "unknown command"),
        (b'{"command": "stop"}\n', "unknown command; known are fail, status"),
    ],
)
async def test_whatever_is_asked_is_answered_and_the_daemon_goes_on(path, request_line, error):
    assert json.loads(await raw(path, request_line))["error"].startswith(error)
    assert await ask(path) == {"answer": 42}


async def test_a_line_without_end_or_an_asker_that_leaves_is_dropped(path):
    assert await raw(path, b"x" * 100_000) == b""
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    assert await ask(path) == {"answer": 42}


async def test_a_handler_that_fails_takes_nothing_with_it(path):
    with pytest.raises(DaemonUnreachableError):
        await ask(path, "fail")
    assert await ask(path) == {"answer": 42}


async def test_a_command_that_the_running_daemon_does_not_know_is_an_error_with_its_cure(path):
    with pytest.raises(DaemonUnreachableError, match=r"unknown command.*restart it after an update"):
        await ask(path, "dance")


async def test_a_socket_left_by_a_killed_daemon_is_replaced_and_a_file_is_not(tmp_path):
    stale = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    server = await control.serve(stale, {"status": dict})
    assert await ask(stale) == {}
    server.close()
    await server.wait_closed()
    file = tmp_path / "precious"
    file.write_text("data")
    with pytest.raises(OSError, match="in use"):
        await control.serve(file, {})
    assert file.read_text() == "data"


def test_nobody_there_is_an_error_with_its_cure(tmp_path):
    with pytest.raises(DaemonUnreachableError, match="systemctl status fedge-agent"):
        control.ask(tmp_path / "control.sock", "status")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(DaemonUnreachableError):
        control.ask(tmp_path / "control.sock", "status")


async def impostor(path: Path, answer: bytes) -> asyncio.Server:
    """What a daemon that was taken over could put in place of its socket."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(reply, path)


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"[1, 2]\n", b"\xff\n", b"x" * 2_000_000, b"[" * 5_000 + b"\n"])
async def test_something_else_at_the_socket_is_told(tmp_path, answer):
    path = tmp_path / "control.sock"

    server = await impostor(path, answer)
    with pytest.raises(DaemonUnreachableError):
        await ask(path)
    server.close()


async def test_a_daemon_that_was_taken_over_cannot_steer_the_terminal_of_whoever_asks(tmp_path):
    steers = "\x1b]0;owned\x07\x1b[2J\n\u202e"
    answer = json.dumps({"status": steers, "rounds": [{steers: steers}], "prekeys": 3}).encode() + b"\n"
    server = await impostor(tmp_path / "control.sock", answer)
    found = await ask(tmp_path / "control.sock")
    server.close()
    shown = "?]0;owned??[2J??"
    assert found == {"status": shown, "rounds": [{shown: shown}], "prekeys": 3}


async def test_nor_can_it_by_its_errors(tmp_path):
    server = await impostor(tmp_path / "control.sock", json.dumps({"error": "\x1b[2J"}).encode() + b"\n")
    with pytest.raises(DaemonUnreachableError, match=r"answers: \?\[2J"):
        await ask(tmp_path / "control.sock")
    server.close()
