"""MQTT in a WebSocket (RFC 6455; MQTT 5, section 6) for networks that let nothing but HTTPS through.

`Upgrade` is the handshake, without I/O. `WebSocket` then stands in for the socket: binary frames outwards, each masked
as a client's must be; inwards the payload of binary frames, however the broker cuts them. paho's own wrapper does the
handshake blocking, masks byte by byte and believes what the broker says about lengths.
"""

import base64
import contextlib
import hashlib
import os
import re
import socket
import ssl
import struct
from typing import Final

from fedge_transport.http_head import HttpHead, MalformedAnswerError

_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_SWITCHING: Final = 101
_READ_BYTES: Final = 65_536
_FRAME_BYTES: Final = 65_535
_CONTROL_BYTES: Final = 125
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127


class Upgrade:
    """One request to speak MQTT in a WebSocket.

    Args:
        host: for the Host field.
        port: as above.
        path: on the server.
        nonce: 16 random bytes.

    Raises:
        ValueError: a host or path that cannot stand in a request.
    """

    def __init__(self, host: str, port: int, path: str, nonce: bytes) -> None:
        if not _PATH.fullmatch(path) or not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} with path {path!r} is no place for a WebSocket; a path is /mqtt or the like")
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._path = path
        self._key = base64.b64encode(nonce)
        self._head = HttpHead()

    @property
    def request(self) -> bytes:
        """What to send."""
        lines = (
            f"GET {self._path} HTTP/1.1",
            f"Host: {self._authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: mqtt",
        )
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def feed(self, data: bytes) -> bytes | None:
        """Take in the answer; returns what the broker sent behind it once it agreed, None before.

        Raises:
            MalformedAnswerError: it does not agree.
        """
        rest = self._head.feed(data)
        if rest is None:
            return None
        fields = self._head.fields
        if self._head.status != _SWITCHING:
            what = f"{self._head.status} {self._head.reason}".rstrip()
            raise MalformedAnswerError(f"the server answers {what} to a WebSocket at {self._path}; is that the path?")
        proof = base64.b64encode(hashlib.sha1(self._key + _SALT, usedforsecurity=False).digest()).decode()
        if fields.get("sec-websocket-accept") != proof or fields.get("upgrade", "").lower() != "websocket":
            raise MalformedAnswerError("the server's answer to the WebSocket request does not fit it")
        if fields.get("sec-websocket-protocol") != "mqtt" or "sec-websocket-extensions" in fields:
            raise MalformedAnswerError("the server does not agree to speak MQTT in the WebSocket")
        return rest


class WebSocket:
    """A socket for MQTT over an agreed WebSocket. Never blocks; `BlockingIOError` means later.

    Args:
        sock: connected, non-blocking.
        early: what came behind the agreement.
    """

    def __init__(self, sock: socket.socket | ssl.SSLSocket, early: bytes = b"") -> None:
        self.socket = sock
        self._raw = bytearray(early)
        self._left = 0
        self._within = False
        self._ready = bytearray()
        self._out = bytearray()
        self._owed = 0
        self._pong: bytes | None = None
        self._ended = False
        self._parse()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes of MQTT; none: the broker closed.

        Raises:
            BlockingIOError: nothing now.
            OSError: the connection broke, or the broker breaks the rules.
        """
        if not self._ready and not self._ended:
            self._fill()
        if self._ready:
            part = bytes(self._ready[:size])
            del self._ready[:size]
            return part
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Send the beginning of `data`; returns how much of it is out. After `BlockingIOError`: again with the same.

        Raises:
            BlockingIOError: not all of it could be sent.
            OSError: the connection broke.
        """
        if not self._owed:
            part = bytes(data[:_FRAME_BYTES])
            self._owed = len(part)
            self._out += _frame(_BINARY, part)
        self._flush()
        owed, self._owed = self._owed, 0
        return owed

    def close(self) -> None:
        """Say so to the broker if that goes at once, and close."""
        if not self._out:
            self._out += _frame(_CLOSE, struct.pack("!H", 1000))
            with contextlib.suppress(OSError):
                self._flush()
        self.socket.close()

    def fileno(self) -> int:
        """For the event loop."""
        return self.socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  the standard library's signature
        """Only False can be."""
        self.socket.setblocking(flag)

    def pending(self) -> int:
        """Bytes that can be had although the socket is not readable."""
        within = self.socket.pending() if isinstance(self.socket, ssl.SSLSocket) else 0
        return len(self._ready) + within

    def _fill(self) -> None:
        try:
            data = self.socket.recv(_READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        if not data:
            self._ended = True
            return
        self._raw += data
        self._parse()
        if self._pong is not None and not self._out:
            self._out += _frame(_PONG, self._pong)
            self._pong = None
            with contextlib.suppress(BlockingIOError):
                self._flush()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self.socket.send(self._out)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError from error
            del self._out[:sent]

    def _parse(self) -> None:
        while self._raw and not self._ended:
            if self._left:
                part = min(self._left, len(self._raw))
                self._ready += self._raw[:part]
                del self._raw[:part]
                self._left -= part
            elif not self._head():
                return

    def _head(self) -> bool:
        """Take a frame's head, and the whole of a control frame; False while it is not complete."""
        raw = self._raw
        if len(raw) < 2:  # noqa: PLR2004  the shortest head
            return False
        opcode, length = raw[0] & _OPCODE, raw[1] & _LENGTH
        if raw[0] & _RESERVED or raw[1] & _MASKED:
            raise ConnectionError("a WebSocket frame with reserved bits or a mask, which a server must not send")
        size = 2 + {_LENGTH_16: 2, _LENGTH_64: 8}.get(length, 0)
        if opcode >= _CLOSE:
            if length > _CONTROL_BYTES or not raw[0] & _FINAL:
                raise ConnectionError("a WebSocket control frame that is long or cut")
            return self._control(opcode, length)
        if opcode not in (_CONTINUED, _BINARY) or (opcode == _CONTINUED) != self._within:
            raise ConnectionError(f"a WebSocket frame of kind {opcode} out of place; MQTT is binary")
        if len(raw) < size:
            return False
        self._left = int.from_bytes(raw[2:size], "big") if size > 2 else length  # noqa: PLR2004  the shortest head
        self._within = not raw[0] & _FINAL
        del raw[:size]
        return True

    def _control(self, opcode: int, length: int) -> bool:
        if len(self._raw) < 2 + length:
            return False
        payload = bytes(self._raw[2 : 2 + length])
        del self._raw[: 2 + length]
        if opcode == _CLOSE:
            self._ended = True
        elif opcode == _PING:
            self._pong = payload  # only the latest needs an answer: nobody can make us hold many
        elif opcode != _PONG:
            raise ConnectionError(f"a WebSocket control frame of unknown kind {opcode}")
        return True


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    head = bytes((_FINAL | opcode,))
    if length < _LENGTH_16:
        head += bytes((_MASKED | length,))
    else:
        head += bytes((_MASKED | _LENGTH_16,)) + length.to_bytes(2, "big")
    key = os.urandom(4)
    mask = (key * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + key + masked.to_bytes(length, "big")
