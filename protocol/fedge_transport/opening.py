"""Opening a socket to the broker without a thread and without blocking the event loop."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, Union

from fedge_transport.errors import AddressUnknownError
from fedge_transport.route import Route
from fedge_transport.settings import ConnectionSettings
from fedge_transport.traffic import wire_bytes

if TYPE_CHECKING:
    from fedge_transport.websocket import WebSocket

Plain = socket.socket | ssl.SSLSocket
Socket = Union[socket.socket, ssl.SSLSocket, "WebSocket"]
_T = TypeVar("_T")
_SO_MAX_PACING_RATE = 47
_MOST_TRIED = 4
_ANSWER_BYTES = 4096


async def open_socket(settings: ConnectionSettings, context: ssl.SSLContext | None, route: Route) -> Socket:
    """A connected, non-blocking socket; proxy, TLS and WebSocket are behind it.

    The addresses come from the route's directory, the name that the certificate must carry from the settings.

    Raises:
        OSError: unreachable; `ssl.SSLError`, a kind of it, when the broker's certificate is not accepted.
    """
    current: Plain = await _connect(settings, route)
    try:
        if route.proxy is not None:
            await _tunnel(current, settings, route)
        if context is not None:
            name = settings.expected_name
            current = context.wrap_socket(current, server_hostname=name, do_handshake_on_connect=False)
            await _patiently(current, current.do_handshake)
        if settings.websocket_path is not None:
            return await _websocket(current, settings, settings.websocket_path)
    except BaseException as error:  # a cancelled handshake must not leak its socket, nor its bytes
        if route.allowance is not None:
            route.allowance.use(wire_bytes(current))
        current.close()
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise OSError(str(error)) from error
        raise
    return current


def bare(sock: Socket) -> socket.socket:
    """The kernel's socket below."""
    return sock if isinstance(sock, socket.socket) else sock.socket


def pending(sock: Socket) -> int:
    """Bytes that can be read although the kernel has none: they wait in TLS or in the WebSocket."""
    return 0 if isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket) else sock.pending()


async def _connect(settings: ConnectionSettings, route: Route) -> socket.socket:
    if settings.is_unix:
        return await _connect_to(socket.AF_UNIX, settings.host, None)
    host, port = (settings.host, settings.port) if route.proxy is None else (route.proxy.host, route.proxy.port)
    addresses = (await route.directory.find(host, port))[:_MOST_TRIED]
    if not addresses:
        raise AddressUnknownError(f"{host} has no address")
    last: OSError | None = None
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            # one that swallows packets must not take the time of the others
            async with asyncio.timeout(settings.connect_timeout_s / (len(addresses) + 1)):
                return await _connect_to(family, (address, port), route.pace_bytes_per_s)
        except TimeoutError:
            last = TimeoutError(f"{address} port {port} does not answer")
        except OSError as error:
            last = OSError(error.errno, f"{address} port {port}: {error.strerror or error}")
    route.directory.unreachable(host, port)
    raise last if last is not None else AddressUnknownError(f"{host} has no address")


async def _connect_to(family: int, address: str | tuple[str, int], pace_bytes_per_s: int | None) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.setblocking(False)  # noqa: FBT003  the standard library's signature
        if family != socket.AF_UNIX:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if pace_bytes_per_s is not None:
            plain.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", pace_bytes_per_s))
        await asyncio.get_running_loop().sock_connect(plain, address)
    except BaseException:
        plain.close()
        raise
    return plain


async def _tunnel(plain: Plain, settings: ConnectionSettings, route: Route) -> None:
    from fedge_transport.proxy import Tunnel  # noqa: PLC0415 - few have a proxy

    credentials = route.proxy.credentials() if route.proxy is not None else None
    tunnel = Tunnel(settings.host, settings.port, credentials)
    await _send(plain, tunnel.request)
    while not tunnel.feed(await _patiently(plain, lambda: plain.recv(_ANSWER_BYTES))):
        pass


async def _websocket(current: Plain, settings: ConnectionSettings, path: str) -> "WebSocket":
    from fedge_transport.websocket import Upgrade, WebSocket  # noqa: PLC0415 - as above

    upgrade = Upgrade(settings.host, settings.port, path, os.urandom(16))
    await _send(current, upgrade.request)
    while True:
        early = upgrade.feed(await _patiently(current, lambda: current.recv(_ANSWER_BYTES)))
        if early is not None:
            return WebSocket(current, early)


async def _send(current: Plain, data: bytes) -> None:
    left = memoryview(data)
    while left:
        rest = left
        left = left[await _patiently(current, lambda: current.send(rest), writing=True) :]  # noqa: B023 - awaited here


async def _patiently(current: Plain, step: Callable[[], _T], *, writing: bool = False) -> _T:
    """Do it as soon as the socket is ready for it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            await _ready(current.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(current.fileno(), loop.add_writer, loop.remove_writer)
        except BlockingIOError:
            if writing:
                await _ready(current.fileno(), loop.add_writer, loop.remove_writer)
            else:
                await _ready(current.fileno(), loop.add_reader, loop.remove_reader)


async def _ready(fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
