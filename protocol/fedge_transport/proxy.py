"""CONNECT through an HTTP proxy (RFC 9110, 9.3.6), without I/O: what to send, and what the answer means.

The proxy sees the broker's name and port, sizes and times; TLS with the broker begins behind it. It also resolves the
name, so the device needs no DNS for it.
"""

import base64
import re
from typing import Final

from fedge_transport.errors import ProxyRefusedError
from fedge_transport.http_head import HttpHead

_AUTHORITY: Final = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_OTHER_CREDENTIALS: Final = "it asks for other credentials; correct the file that network.proxy_credentials names"
_MEANINGS: Final = {
    401: _OTHER_CREDENTIALS,
    403: "it does not let this device through; have its administrator allow CONNECT to that host and port",
    404: "it does not know the host",
    407: _OTHER_CREDENTIALS,
    502: "it cannot reach the host",
    503: "it cannot reach the host now",
    504: "it cannot reach the host in time",
}


class Tunnel:
    """One CONNECT.

    Args:
        host: the name or address behind the proxy.
        port: its port.
        credentials: `user:password`, sent as basic authentication; None: none.

    Raises:
        ProxyRefusedError: a host that cannot be asked for.
    """

    def __init__(self, host: str, port: int, credentials: str | None = None) -> None:
        if not _AUTHORITY.fullmatch(host):
            raise ProxyRefusedError(f"{host!r} is no host that a proxy can be asked for")
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._credentials = credentials
        self._head = HttpHead()

    @property
    def request(self) -> bytes:
        """What to send."""
        lines = [f"CONNECT {self._authority} HTTP/1.1", f"Host: {self._authority}"]
        if self._credentials is not None:
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(self._credentials.encode()).decode()}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def feed(self, data: bytes) -> bool:
        """Take in what the proxy answers; True once the tunnel stands.

        Raises:
            ProxyRefusedError: it does not, and why.
            MalformedAnswerError: this is no proxy.
        """
        rest = self._head.feed(data)
        if rest is None:
            return False
        if not 200 <= self._head.status < 300:  # noqa: PLR2004  success
            meaning = _MEANINGS.get(self._head.status, "see its own log")
            what = f"{self._head.status} {self._head.reason}".rstrip()
            raise ProxyRefusedError(f"the proxy answers {what} to CONNECT {self._authority}: {meaning}")
        if rest:  # in TLS the client speaks first
            raise ProxyRefusedError(f"the proxy speaks itself behind CONNECT {self._authority}; it is no plain tunnel")
        return True
