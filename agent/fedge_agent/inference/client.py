"""Asks the inference server, by its Unix socket."""

import http.client
import json
import socket
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fedge_agent.inference.routes import JSON, PATH_INFER, PATH_MODEL

_TIMEOUT_S: Final = 60.0
_MAX_ANSWER_BYTES: Final = 256 << 20


class ServerUnreachableError(Exception):
    """Nobody answers at the socket. Is fedge-inference.socket started?"""


class AskRefusedError(Exception):
    """The server refused; the text has its reason and the cure."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def describe(path: Path, job: str | None = None) -> dict[str, Any]:
    """The model that would answer.

    Raises:
        ServerUnreachableError, AskRefusedError; PermissionError: the socket is not ours to use.
    """
    return _ask(path, "GET", PATH_MODEL, job, None)


def infer(path: Path, rows: Sequence[Sequence[float]], job: str | None = None) -> dict[str, Any]:
    """`{"outputs": [[...], ...], "model": {...}}` for rows of the model's width.

    Raises:
        ServerUnreachableError, AskRefusedError; PermissionError: the socket is not ours to use.
    """
    return _ask(path, "POST", PATH_INFER, job, json.dumps({"inputs": rows}).encode())


def _ask(path: Path, method: str, place: str, job: str | None, body: bytes | None) -> dict[str, Any]:
    connection = _UnixConnection(path)
    target = place if job is None else f"{place}?{urlencode({'job': job})}"
    try:
        connection.request(method, target, body, {"Content-Type": JSON} if body is not None else {})
        response = connection.getresponse()
        found = json.loads(response.read(_MAX_ANSWER_BYTES))
    except PermissionError:
        raise PermissionError(f"{path} is not yours to use; run this as root or as a member of group fedge") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerUnreachableError(
            f"no inference server answers at {path}: {error}; systemctl start fedge-inference.socket"
        ) from None
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise ServerUnreachableError(f"what answers at {path} is no inference server")
    if response.status != HTTPStatus.OK:
        raise AskRefusedError("{reason}: {detail}; {cure}".format_map({"reason": "", "detail": "", "cure": ""} | found))
    return found
