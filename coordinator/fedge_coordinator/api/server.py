"""Serving an app inside the coordinator's event loop: on a private Unix socket, or on a loopback port."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

SOCKET_MODE: Final = 0o600
BACKLOG: Final = 64
GRACE_S: Final = 2


class SocketUnavailableError(Exception):
    """The socket cannot be bound: another coordinator listens there, or the path is not ours to use."""


class _Server(uvicorn.Server):
    """Leaves signals to the process it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, socket_path: Path, *, ready: asyncio.Event | None = None) -> None:
    """Serve on a Unix socket of mode 0600 until cancelled, then let requests end and remove the socket.

    Raises:
        SocketUnavailableError: see there.
    """
    listener = listen_private(socket_path)
    try:
        await run(app, listener, ready=ready)
    finally:
        _remove(socket_path)


async def serve_loopback(app: Starlette, host: str, port: int, *, ready: asyncio.Event | None = None) -> None:
    """Serve on a TCP port of this machine only until cancelled. For a free port, see `listen_loopback`.

    Raises:
        SocketUnavailableError: the port is taken, or the address is not a loopback address.
    """
    await run(app, listen_loopback(host, port), ready=ready)


def listen_private(path: Path) -> socket.socket:
    """Bind a Unix socket that only this user (and root) may open; a socket that a killed process left is replaced.

    Raises:
        SocketUnavailableError: see there.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketUnavailableError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return listener


def listen_loopback(host: str, port: int) -> socket.socket:
    """Bind a loopback port; 0 picks a free one.

    Raises:
        SocketUnavailableError: see there.
    """
    try:
        address = ip_address(host)
    except ValueError:
        raise SocketUnavailableError(f"{host!r} is no IP address; use 127.0.0.1 or ::1") from None
    if not address.is_loopback:
        raise SocketUnavailableError(f"{host} is not a loopback address: metrics and health stay on this machine")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004 - IP versions
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketUnavailableError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


async def run(app: Starlette, listener: socket.socket, *, ready: asyncio.Event | None = None) -> None:
    """Serve on a socket that already listens until cancelled; the socket is closed."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=BACKLOG,
    )
    server = _Server(config)
    with listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        if ready is not None:
            # the socket listens already: who connects now is answered as soon as the loop turns
            ready.set()
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketUnavailableError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketUnavailableError(f"{path} exists and is no socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise SocketUnavailableError(f"cannot use {path}: {error.strerror}") from error
        else:
            raise SocketUnavailableError(f"another coordinator listens on {path}; stop it first")
