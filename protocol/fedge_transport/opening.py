"""Opening a socket to the broker without a thread and without blocking the event loop."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from fedge_transport.settings import ConnectionSettings

Socket = socket.socket | ssl.SSLSocket


async def open_socket(settings: ConnectionSettings, context: ssl.SSLContext | None) -> Socket:
    """A connected, non-blocking socket, the TLS handshake done.

    An address is connected to directly; only a name costs a resolver thread (the event loop's own).

    Raises:
        OSError: unreachable; `ssl.SSLError`, a kind of it, when the broker's certificate is not accepted.
    """
    plain = await _connect(settings)
    if context is None:
        return plain
    try:
        wrapped = context.wrap_socket(plain, server_hostname=settings.expected_name, do_handshake_on_connect=False)
    except (OSError, ValueError):
        plain.close()
        raise
    try:
        await _shake_hands(wrapped)
    except BaseException:  # a cancelled handshake must not leak its socket
        wrapped.close()
        raise
    return wrapped


async def _connect(settings: ConnectionSettings) -> socket.socket:
    last: OSError | None = None
    for family, address in await _addresses(settings):
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)  # noqa: FBT003  the standard library's signature
            if family != socket.AF_UNIX:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(plain, address)
        except OSError as error:
            plain.close()
            last = error
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise last if last is not None else OSError(f"{settings.host} has no address")


async def _addresses(
    settings: ConnectionSettings,
) -> list[tuple[int, str | tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]]:
    if settings.is_unix:
        return [(socket.AF_UNIX, settings.host)]
    try:
        version = ipaddress.ip_address(settings.host).version
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return [(family, address) for family, _, _, _, address in found]
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (settings.host, settings.port))]  # noqa: PLR2004  IP


async def _shake_hands(wrapped: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            wrapped.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(wrapped.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(wrapped.fileno(), loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
