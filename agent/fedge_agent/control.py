"""The control socket: one JSON line asks, one JSON line answers. File permissions are the authentication."""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fedge_agent.local_socket import bound
from fedge_protocol.printable import printable

MAX_REQUEST_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 1024 * 1024
_TIMEOUT_S: Final = 5.0

Handler = Callable[[], dict[str, Any]]


class DaemonUnreachableError(Exception):
    """No daemon answers at the control socket. Is it running? `systemctl status fedge-agent`."""


class NoDaemonError(DaemonUnreachableError):
    """Nobody listens at the control socket: the daemon is not running, or has nothing to say yet."""


async def serve(path: Path, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Answer requests on a Unix socket of mode 0660 at `path` until the server is closed.

    Raises:
        OSError: the socket cannot be made.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                line = await reader.readline()
                writer.write(json.dumps(_answer(line, handlers)).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # the asker went away, or sent more than a line may hold
        finally:
            writer.close()

    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return await asyncio.start_unix_server(answer, sock=bound(path), limit=MAX_REQUEST_BYTES)


def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"error": "no JSON"}
    command = request.get("command") if isinstance(request, dict) else None
    handler = handlers.get(command) if isinstance(command, str) else None
    return handler() if handler is not None else {"error": f"unknown command; known are {', '.join(sorted(handlers))}"}


def ask(path: Path, command: str) -> dict[str, Any]:
    """Ask the daemon, from another process, often root's: no text of the answer can steer a terminal.

    Raises:
        DaemonUnreachableError: nobody answers within 5 s, or not with a JSON object, or it does not know the command.
        PermissionError: the socket is not ours to use.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_TIMEOUT_S)
            peer.connect(str(path))
            peer.sendall(json.dumps({"command": command}).encode() + b"\n")
            with peer.makefile("rb") as answer:
                found = _plain(json.loads(answer.readline(MAX_ANSWER_BYTES)))
    except PermissionError:
        raise PermissionError(f"{path} is not yours to use; run this as root or as a member of group fedge") from None
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError) as error:
        raise NoDaemonError(f"no daemon answers at {path}: {error}; see systemctl status fedge-agent") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DaemonUnreachableError(
            f"no daemon answers at {path}: {error}; see systemctl status fedge-agent"
        ) from None
    if not isinstance(found, dict):
        raise DaemonUnreachableError(f"what answers at {path} is no fedge-agent")
    if "error" in found:
        raise DaemonUnreachableError(f"the daemon at {path} answers: {found['error']}; restart it after an update")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): _plain(item) for name, item in value.items()}
    return value
