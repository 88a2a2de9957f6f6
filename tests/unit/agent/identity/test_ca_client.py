import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity.ca_client import fetch_ca
from fedge_agent.identity.errors import CaUnreachableError, IdentityError, RefusedByCaError
from fedge_protocol.enrolment import Refusal

STEERS = "\x1b]0;owned\x07\x1b[2J\n<0>kernel: forged\u202e"
Say = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def anybody(tmp_path) -> Iterator[Callable[[Say], str]]:
    """Serves HTTPS under a certificate that nobody believes; gives the URL."""
    servers: list[HTTPServer] = []

    def serve(say: Say) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                say(self)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(tmp_path / "server.pem"))
        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def _certificate(path):
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    alternatives = x509.SubjectAlternativeName([x509.DNSName("anybody.invalid")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(alternatives, critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path


def _refuse(handler):
    body = msgspec.json.encode(Refusal(STEERS[:64], STEERS, STEERS))
    handler.send_response(403)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _babble(handler):
    handler.wfile.write(STEERS.replace("\n", "").encode("latin-1", "replace") + b"\r\n\r\n")


@pytest.mark.parametrize(("say", "kind"), [(_refuse, RefusedByCaError), (_babble, CaUnreachableError)])
def test_a_server_that_nobody_believes_yet_cannot_steer_the_terminal_or_the_log(anybody, say, kind):
    with pytest.raises(IdentityError) as caught:
        fetch_ca(anybody(say), bytes(32))
    assert isinstance(caught.value, kind)
    assert str(caught.value).isprintable()
