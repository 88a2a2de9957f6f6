"""The inference server: HTTP/1.1 on sockets that systemd hands over, or on its own; ends when nobody asks."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import sdnotify

from fedge_agent.inference.models import Models
from fedge_agent.inference.refusals import Reason, RefusedRequestError
from fedge_agent.inference.request import MAX_HEAD_BYTES, Head, parse_head
from fedge_agent.inference.routes import Answer, answered, check_route, refusal

_log = logging.getLogger(__name__)
_FIRST_FD: Final = 3
_HEAD_TIMEOUT_S: Final = 30.0
_BODY_TIMEOUT_S: Final = 15.0
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 16 << 20
_MAX_CONNECTIONS: Final = 64
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class ListenError(Exception):
    """There is no socket that may be served."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`idle_exit_s` None: it stays; `max_body_bytes` of one request."""

    idle_exit_s: float | None
    max_body_bytes: int


def handed_over(environment: dict[str, str] | os._Environ[str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd passed to this process (sd_listen_fds(3)).

    Raises:
        ListenError: one of them is reachable from other machines.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = []
    for descriptor in range(_FIRST_FD, _FIRST_FD + int(environment.get("LISTEN_FDS", "0"))):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
        listener = socket.socket(fileno=descriptor)
        if listener.family != socket.AF_UNIX and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            raise ListenError(
                f"{listener.getsockname()[0]} is reachable from elsewhere: in fedge-inference.socket let it listen on "
                "a Unix socket or 127.0.0.1"
            )
        found.append(listener)
    return found


def run(listeners: Sequence[socket.socket], models_dir: Path, limits: Limits) -> None:
    """Serve until SIGTERM, SIGINT, or nobody has asked for so long."""
    asyncio.run(InferenceServer(Models(models_dir), limits).serve(listeners))


class InferenceServer:
    """Takes connections and answers them one request after another."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._asked_at = time.monotonic()
        self._notifier = sdnotify.SystemdNotifier()

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Serve on these sockets, which are closed afterwards."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        servers = []
        for listener in listeners:
            taken = self._taker(local=listener.family == socket.AF_UNIX)
            # for Unix sockets too: start_unix_server would remove, from Python 3.13 on, the path that is systemd's
            servers.append(await asyncio.start_server(taken, sock=listener, limit=MAX_HEAD_BYTES))
        self._notifier.notify("READY=1\nSTATUS=waiting for a question")
        idle = asyncio.create_task(self._end_when_idle(), name="idle")
        try:
            await self._stop.wait()
        finally:
            self._notifier.notify("STOPPING=1")
            idle.cancel()
            for server in servers:
                server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._models.stop()

    def stop(self) -> None:
        """End `serve`."""
        self._stop.set()

    async def _end_when_idle(self) -> None:
        limit_s = self._limits.idle_exit_s
        while limit_s is not None:
            left_s = self._asked_at + limit_s - time.monotonic()
            if left_s <= 0 and not self._busy:
                _log.info("nobody has asked for %.0f s", limit_s)
                self._stop.set()
                return
            await asyncio.sleep(max(left_s, 0.05))

    def _taker(self, *, local: bool):  # type: ignore[no-untyped-def] # noqa: ANN202 - what start_server calls
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._connections.add(task)
            try:
                await self._converse(reader, writer, local=local)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass  # the asker went away, or fell asleep
            except asyncio.CancelledError:
                if not self._stop.is_set():
                    raise
            finally:
                if task is not None:
                    self._connections.discard(task)
                writer.close()

        return take

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool) -> None:
        while True:
            keep_alive = False
            try:
                head = await self._head(reader)
                if head is None:
                    return
                self._busy += 1
                try:
                    answer = await self._answer(head, reader, writer, local=local)
                finally:
                    self._busy -= 1
                    self._asked_at = time.monotonic()
                keep_alive = head.keep_alive
            except RefusedRequestError as error:
                answer = refusal(error)  # what is left of such a request is unknown: the connection ends
            writer.write(_encoded(answer, keep_alive=keep_alive))
            await writer.drain()
            if not keep_alive:
                await _linger(reader, writer)
                return

    async def _head(self, reader: asyncio.StreamReader) -> Head | None:
        if len(self._connections) > _MAX_CONNECTIONS:
            raise RefusedRequestError(Reason.BUSY, f"{_MAX_CONNECTIONS} connections are open", "ask again")
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                data = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise RefusedRequestError(
                Reason.HEAD_TOO_LONG, f"more than {MAX_HEAD_BYTES} bytes of head", "send fewer header fields"
            ) from None
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None
            raise RefusedRequestError(Reason.MALFORMED, "the head was not finished", "send an empty line") from None
        return parse_head(data)

    async def _answer(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool
    ) -> Answer:
        if not local:
            _check_asker(head)
        check_route(head)
        length = head.length or 0
        if length > self._limits.max_body_bytes:
            most = self._limits.max_body_bytes
            raise RefusedRequestError(
                Reason.OVERSIZED,
                f"{length} bytes, at most {most}",
                "send fewer rows, or raise inference.max_request_kib",
            )
        if head.waits_for_continue:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await reader.readexactly(length)
        except TimeoutError:
            raise RefusedRequestError(Reason.TOO_SLOW, "the body was not finished", "send it at once") from None
        except asyncio.IncompleteReadError as error:
            raise RefusedRequestError(
                Reason.MALFORMED, f"{len(error.partial)} of {length} bytes of body", "send as much as announced"
            ) from None
        try:
            return await answered(head, body, self._models)
        except RefusedRequestError as error:
            if error.reason is not Reason.BAD_INPUT:
                _log.warning("refused: %s", error)
            return refusal(error)  # the request was read whole: the connection may go on


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what is still being sent, for a moment: closing at once would cost the sender our answer."""
    left = _LINGER_BYTES
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while left > 0 and (part := await reader.read(65536)):
                left -= len(part)


def _check_asker(head: Head) -> None:
    """On TCP: a web page in a browser on this device does not speak for its owner (DNS rebinding and the like)."""
    name = head.headers.get("host", "").rpartition(":")[0] or head.headers.get("host", "")
    if name.lower() not in _LOOPBACK_NAMES or "origin" in head.headers:
        raise RefusedRequestError(
            Reason.FORBIDDEN_HOST,
            f"Host {head.headers.get('host', '')[:80]!r}",
            "ask 127.0.0.1, and not from a web page",
        )


def _encoded(answer: Answer, *, keep_alive: bool) -> bytes:
    status = HTTPStatus(answer.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body
