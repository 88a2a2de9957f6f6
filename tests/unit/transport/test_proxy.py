import socket

import pytest

from fedge_transport.errors import ProxyRefusedError
from fedge_transport.http_head import MalformedAnswerError
from fedge_transport.proxy import Tunnel
from fedge_transport.traffic import wire_bytes


def test_the_request_names_the_broker_and_hides_nothing_else_in_it():
    assert Tunnel("mq.example", 443).request == b"CONNECT mq.example:443 HTTP/1.1\r\nHost: mq.example:443\r\n\r\n"
    assert Tunnel("2001:db8::1", 8883).request.startswith(b"CONNECT [2001:db8::1]:8883 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in Tunnel("a", 1, "user:pass").request


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: 1", "a/b", "a" * 254])
def test_nothing_can_be_smuggled_into_the_request(host):
    with pytest.raises(ProxyRefusedError, match="no host that a proxy"):
        Tunnel(host, 443)


def test_the_tunnel_stands_when_the_whole_answer_is_there():
    tunnel = Tunnel("a", 1)
    assert not tunnel.feed(b"HTTP/1.0 200 Connection estab")
    assert tunnel.feed(b"lished\r\nVia: someone\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"HTTP/1.1 407 Who?\r\n\r\n", ProxyRefusedError, "407 Who.*network.proxy_credentials"),
        (b"HTTP/1.1 403 \r\n\r\n", ProxyRefusedError, "administrator"),
        (b"HTTP/1.1 599 \x1b[2Jhello\r\n\r\n", ProxyRefusedError, r"answers 599 \[2Jhello to"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", ProxyRefusedError, "no plain tunnel"),
        (b"220 smtp.example\r\n\r\n", MalformedAnswerError, "no HTTP answer"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", MalformedAnswerError, "no HTTP answer"),
        (b"", MalformedAnswerError, "closed"),
    ],
)
def test_every_other_answer_is_refused_with_its_reason(answer, error, words):
    with pytest.raises(error, match=words):
        Tunnel("a", 1).feed(answer)


def test_what_a_connection_costs_is_what_the_kernel_counts():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            begin = wire_bytes(near)
            near.sendall(bytes(10_000))
            far.recv(10_000, socket.MSG_WAITALL)
            far.sendall(bytes(5_000))
            near.recv(5_000, socket.MSG_WAITALL)
            assert 15_000 + 2 * 52 <= wire_bytes(near) - begin <= 15_000 + 40 * 52
    assert wire_bytes(near) == 0


def test_a_unix_socket_costs_nothing():
    near, far = socket.socketpair()
    with near, far:
        near.sendall(b"x")
        assert wire_bytes(near) == 0
