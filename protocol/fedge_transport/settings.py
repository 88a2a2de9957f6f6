"""What a connection needs to know, validated once."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fedge_protocol.backoff import Backoff

_KEEPALIVE_MOST_S: Final = 65_535
_SESSION_MOST_S: Final = 0xFFFF_FFFF
_RECEIVE_MOST: Final = 65_535
_PACKET_LEAST: Final = 1024
_PACKET_MOST: Final = 268_435_455
DEFAULT_MAX_PACKET_BYTES: Final = 131_072 + 4096
"""One chunk of 128 KiB, its topic and properties; every signed body fits as well."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this connection ends without a farewell."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where the broker is, who we are, and the bounds of the connection.

    Args:
        host: address or name of the broker; a path that starts with "/" is a Unix socket.
        port: TCP port; ignored for a Unix socket.
        client_id: MQTT client id; with certificates the common name, which the broker enforces.
        ca_file: PEM of the authorities that may vouch for the broker. Without it the connection is in the clear, which
            is accepted only for a Unix socket or a loopback address.
        cert_file: PEM of our certificate and its chain.
        key_file: PEM of its key.
        server_name: the name that the broker's certificate must carry, when it is not `host`.
        websocket_path: MQTT goes in a WebSocket at this path; None: it goes by itself.
        keepalive_s: seconds of silence after which the connection is probed.
        session_expiry_s: seconds for which the broker keeps our session and queues messages after we are gone.
        will: the last will.
        receive_maximum: most unacknowledged messages the broker may have under way to us.
        max_packet_bytes: largest packet that is sent or accepted.
        connect_timeout_s: most seconds from the first packet to the broker's CONNACK.
        backoff: waits between attempts to connect.

    Raises:
        ValueError: when a value is out of its bounds, or the connection would be in the clear to another machine.
    """

    host: str
    port: int
    client_id: str
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    websocket_path: str | None = None
    keepalive_s: int = 60
    session_expiry_s: int = 86_400
    will: Will | None = None
    receive_maximum: int = 16
    max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES
    connect_timeout_s: float = 20.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=1.0, factor=2.0, ceiling_s=120.0))

    def __post_init__(self) -> None:
        _within("port", self.port, 0 if self.is_unix else 1, 65_535)
        _within("keepalive_s", self.keepalive_s, 1, _KEEPALIVE_MOST_S)
        _within("session_expiry_s", self.session_expiry_s, 0, _SESSION_MOST_S)
        _within("receive_maximum", self.receive_maximum, 1, _RECEIVE_MOST)
        _within("max_packet_bytes", self.max_packet_bytes, _PACKET_LEAST, _PACKET_MOST)
        if not self.host or not self.client_id:
            raise ValueError(f"host {self.host!r} and client_id {self.client_id!r} must not be empty")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.ca_file is None and not self.is_local:
            raise ValueError(f"no ca_file for {self.host}: only a Unix socket or a loopback address may go without TLS")

        if self.is_unix and self.ca_file is not None and self.server_name is None:
            raise ValueError(f"TLS over the Unix socket {self.host} needs server_name: a path is no name to check")

    @property
    def is_unix(self) -> bool:
        """Whether `host` is the path of a Unix socket."""
        return self.host.startswith("/")

    @property
    def is_local(self) -> bool:
        """Whether the connection cannot leave the machine."""
        if self.is_unix:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def expected_name(self) -> str:
        """The name that the broker's certificate must carry."""
        return self.server_name or self.host


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; it must be in {least}..{most}")
