"""The way to the broker: where addresses come from, which proxy lies between, and whose bytes they are."""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedge_transport.errors import ProxyRefusedError

_MOST_CREDENTIAL_BYTES = 1024


class Directory(Protocol):
    """Knows the addresses of names."""

    async def find(self, host: str, port: int) -> Sequence[str]:
        """The addresses to try, best first.

        Raises:
            OSError: there is none.
        """

    def unreachable(self, host: str, port: int) -> None:
        """None of the addresses that were tried answered."""


class SystemDirectory:
    """The system's own resolver. Only a name costs a resolver thread (the event loop's own)."""

    async def find(self, host: str, port: int) -> Sequence[str]:
        """See `Directory`."""
        if is_address(host):
            return (host,)
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return tuple(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))

    def unreachable(self, host: str, port: int) -> None:
        """See `Directory`; the system's resolver need not know."""


class Allowance(Protocol):
    """Bytes that may still be used, counted where the kernel does not do it."""

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""

    def use(self, wire_bytes: int) -> None:
        """Count what was sent and received, headers included."""

    def refilled_in_s(self) -> float:
        """Seconds until there is something left again."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that understands CONNECT.

    Args:
        host: its name or address.
        port: its TCP port.
        credentials_file: `user:password` in one line, read anew for each connection; no more open than 0640.
    """

    host: str
    port: int
    credentials_file: Path | None = None

    def credentials(self) -> str | None:
        """User and password, None when the proxy asks for none.

        Raises:
            ProxyRefusedError: the file cannot be used.
        """
        path = self.credentials_file
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(_MOST_CREDENTIAL_BYTES + 1).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProxyRefusedError(f"proxy credentials {path} cannot be read: {error}") from None
        if mode & 0o027:
            raise ProxyRefusedError(f"proxy credentials {path} are readable by others; chmod 640 {path}")
        if text.find(":") <= 0 or len(text) > _MOST_CREDENTIAL_BYTES or not text.isprintable():
            raise ProxyRefusedError(f"proxy credentials {path} are not one line user:password")
        return text


@dataclass(frozen=True, slots=True)
class Route:
    """How a connection gets out.

    Args:
        directory: finds addresses; with a proxy it is asked for the proxy's alone.
        proxy: None: straight.
        allowance: None: not counted here.
        pace_bytes_per_s: of what is sent, kept by the kernel for each connection (SO_MAX_PACING_RATE); None: unpaced.
    """

    directory: Directory = field(default_factory=SystemDirectory)
    proxy: Proxy | None = None
    allowance: Allowance | None = None
    pace_bytes_per_s: int | None = None


def is_address(host: str) -> bool:
    """Whether this is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
