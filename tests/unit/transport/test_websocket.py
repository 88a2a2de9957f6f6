import base64
import hashlib
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_transport.http_head import MOST_BYTES, MalformedAnswerError
from fedge_transport.websocket import Upgrade, WebSocket

NONCE = bytes(range(16))
PROOF = base64.b64encode(
    hashlib.sha1(base64.b64encode(NONCE) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
).decode()
AGREED = (
    f"HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: {PROOF}\r\nSec-WebSocket-Protocol: mqtt\r\n"
)


def frame(payload: bytes, opcode: int = 2, *, final: bool = True, mask: bool = False) -> bytes:
    head = bytes([(0x80 if final else 0) | opcode])
    marked = 0x80 if mask else 0
    if len(payload) < 126:
        return head + bytes([marked | len(payload)]) + payload
    if len(payload) < 65_536:
        return head + bytes([marked | 126]) + struct.pack("!H", len(payload)) + payload
    return head + bytes([marked | 127]) + struct.pack("!Q", len(payload)) + payload


def unmasked(sent: bytes) -> list[tuple[int, bytes]]:
    """What a server makes of a client's frames: (opcode, payload)."""
    found = []
    while sent:
        assert sent[0] & 0xF0 == 0x80
        assert sent[1] & 0x80, "a client's frame must be masked"
        length, at = sent[1] & 0x7F, 2
        if length == 126:
            length, at = int.from_bytes(sent[2:4], "big"), 4
        key, payload = sent[at : at + 4], sent[at + 4 : at + 4 + length]
        found.append((sent[0] & 0x0F, bytes(letter ^ key[number % 4] for number, letter in enumerate(payload))))
        sent = sent[at + 4 + length :]
    return found


class Pair:
    """A WebSocket and the raw socket of its server."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        near.settimeout(0)
        self.far.settimeout(5)
        self.near = WebSocket(near)

    def received(self, size: int = 65_536) -> bytes:
        got = b""
        while True:
            try:
                part = self.near.recv(size)
            except BlockingIOError:
                return got
            if not part:
                return got
            got += part

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.close()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8),
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
    st.integers(1, 64),
)
def test_however_it_is_cut_the_payload_arrives(parts, cuts, size):
    pair = Pair()
    stream, within = b"", False
    for payload, final in [*parts, (b"", True)]:
        stream += frame(payload, 0 if within else 2, final=final) + frame(b"?", 9)
        within = not final
    got = b""
    for cut in [*cuts, len(stream)]:
        piece, stream = stream[:cut], stream[cut:]
        pair.far.sendall(piece)
        got += pair.received(size)
    assert got == b"".join(payload for payload, _ in parts)
    pair.close()


@settings(deadline=None)
@given(st.binary(max_size=200_000))
def test_what_is_sent_is_masked_and_whole(data):
    pair = Pair()
    rest, wire = data, b""
    while rest:
        try:
            rest = rest[pair.near.send(rest) :]
        except BlockingIOError:
            wire += pair.far.recv(1 << 20)
    pair.far.settimeout(0)
    while True:
        try:
            wire += pair.far.recv(1 << 20)
        except BlockingIOError:
            break
    assert b"".join(payload for opcode, payload in unmasked(wire) if opcode == 2) == data
    pair.close()


@pytest.mark.parametrize(
    "hostile",
    [
        frame(b"x", 1),
        frame(b"x", 3),
        frame(b"x", 0),
        frame(b"x", 2, final=False) + frame(b"y", 2),
        frame(b"x", mask=True),
        bytes([0xC2, 1]) + b"x",
        frame(bytes(126), 9),
        frame(b"", 9, final=False),
        frame(b"", 0xB),
    ],
)
def test_a_frame_that_breaks_the_rules_ends_the_connection(pair, hostile):
    pair.far.sendall(hostile)
    with pytest.raises(ConnectionError, match="WebSocket"):
        pair.received()


def test_a_length_beyond_all_memory_is_no_allocation(pair):
    pair.far.sendall(bytes([0x82, 127]) + b"\xff" * 8 + b"abc")
    assert pair.received() == b"abc"


def test_a_thousand_pings_are_answered_by_the_latest(pair):
    pair.far.sendall(b"".join(frame(str(number).encode(), 9) for number in range(1000)))
    assert pair.received() == b""
    assert unmasked(pair.far.recv(65_536)) == [(10, b"999")]


def test_the_brokers_farewell_ends_the_stream_after_what_came_before(pair):
    pair.far.sendall(frame(b"last") + frame(b"", 8) + frame(b"never"))
    assert pair.received() == b"last"
    assert pair.near.recv(10) == b""
    pair.near.close()
    assert unmasked(pair.far.recv(100)) == [(8, b"\x03\xe8")]


def test_a_closed_connection_is_the_end(pair):
    pair.far.close()
    assert pair.near.recv(10) == b""


def test_the_agreement_is_checked_and_what_follows_it_is_kept():
    upgrade = Upgrade("mq.example", 443, "/mqtt", NONCE)
    assert upgrade.request.startswith(b"GET /mqtt HTTP/1.1\r\nHost: mq.example:443\r\n")
    assert b"Sec-WebSocket-Protocol: mqtt\r\n" in upgrade.request
    whole = AGREED.encode() + b"\r\n" + frame(b"early")
    assert upgrade.feed(whole[:20]) is None
    assert upgrade.feed(whole[20:]) == frame(b"early")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", "does not fit"),
        (AGREED.replace("mqtt", "chat").encode() + b"\r\n", "does not agree"),
        (AGREED.encode() + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "does not agree"),
        (b"HTTP/1.1 101 " + b"x" * MOST_BYTES, "no end of the answer"),
    ],
)
def test_an_answer_that_is_no_agreement_is_refused(answer, words):
    with pytest.raises(MalformedAnswerError, match=words):
        Upgrade("mq.example", 443, "/mqtt", NONCE).feed(answer)


@pytest.mark.parametrize(
    ("host", "path"), [("a\r\nX: 1", "/mqtt"), ("a", "/m q"), ("a", "mqtt"), ("a", "/\r\n"), ("", "/")]
)
def test_nothing_can_be_smuggled_into_the_request(host, path):
    with pytest.raises(ValueError, match="no place for a WebSocket"):
        Upgrade(host, 443, path, NONCE)
