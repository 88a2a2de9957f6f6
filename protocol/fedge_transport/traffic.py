"""What a TCP connection has cost on the wire, as the kernel counts it: no byte is counted by hand."""

import socket
import struct
from typing import Final

_TCP_INFO: Final = 11
_LENGTH: Final = 208
_BYTES_RECEIVED: Final = struct.Struct("=Q")
_SEGMENTS: Final = struct.Struct("=II")
_RECEIVED_AT, _SEGMENTS_AT, _SENT_AT = 128, 136, 200
_HEADER_BYTES: Final = {socket.AF_INET: 52, socket.AF_INET6: 72}
"""IP and TCP with its time stamps."""


def wire_bytes(sock: socket.socket) -> int:
    """Bytes sent, again if need be, and received, with their headers, since the connection began (tcp(7), TCP_INFO).

    The handshake of TLS is in it. 0 for a Unix socket, and where the kernel is older than 4.19.
    """
    header = _HEADER_BYTES.get(sock.family)
    if header is None:
        return 0
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LENGTH)
    except OSError:
        return 0
    if len(found) < _LENGTH:
        return 0
    (received,) = _BYTES_RECEIVED.unpack_from(found, _RECEIVED_AT)
    (sent,) = _BYTES_RECEIVED.unpack_from(found, _SENT_AT)
    return int(sent + received + header * sum(_SEGMENTS.unpack_from(found, _SEGMENTS_AT)))
