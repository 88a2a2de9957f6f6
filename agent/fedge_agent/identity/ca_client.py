"""Speaks HTTPS with the fleet's CA, by the standard library alone: one request a connection, bounded answers."""

import hashlib
import http.client
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from fedge_agent.identity.errors import CaUnreachableError, CaUntrustedError, RefusedByCaError
from fedge_protocol.enrolment import PATH_CA, EnrolmentReason, Refusal
from fedge_protocol.printable import printable

TIMEOUT_S: Final = 15.0
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_SHOWN_CHARS: Final = 200
ATTEMPTS: Final = 6
_FIRST_WAIT_S: Final = 0.5
_T = TypeVar("_T")


class Way(Protocol):
    """How to get to the CA; see `fedge_agent.network_path`."""

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A connection, up to where TLS begins.

        Raises:
            OSError: there is none to be had.
        """

    def done(self, used: socket.socket) -> None:
        """The connection is about to be closed."""


class Straight:
    """Without a proxy, by the system's resolver."""

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """See `Way`."""
        return socket.create_connection((host, port), timeout_s)

    def done(self, used: socket.socket) -> None:
        """See `Way`; nothing is counted."""


_STRAIGHT: Final = Straight()


class CaClient:
    """The CA at `url`, believed only under the root `ca` (DER).

    Args:
        url: `https://host:port`.
        ca: the one trust anchor.
        chain: certificate and key file (PEM) to show, for renewal.
        way: how to get there.
    """

    def __init__(self, url: str, ca: bytes, *, chain: tuple[Path, Path] | None = None, way: Way = _STRAIGHT) -> None:
        self._url = url
        self._way = way
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_verify_locations(cadata=ca)
        if chain is not None:
            self._context.load_cert_chain(*chain)

    def get(self, path: str, kind: type[_T]) -> _T:
        """Fetch and decode.

        Raises:
            CaUnreachableError, CaUntrustedError, RefusedByCaError.
        """
        return self._decoded(_ask(self._url, self._context, self._way, "GET", path), kind)

    def post(self, path: str, body: msgspec.Struct, kind: type[_T]) -> _T:
        """Send and decode the answer.

        Raises:
            CaUnreachableError, CaUntrustedError, RefusedByCaError.
        """
        return self._decoded(_ask(self._url, self._context, self._way, "POST", path, msgspec.json.encode(body)), kind)

    def _decoded(self, body: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            said = printable(str(error))[:MAX_SHOWN_CHARS]
            raise CaUnreachableError(f"{self._url} answers something else: {said}; which version is it?") from None


def fetch_ca(url: str, sha256: bytes, way: Way = _STRAIGHT) -> bytes:
    """Fetch the CA's root certificate (DER) from a server not yet believed, and check its fingerprint.

    Raises:
        CaUnreachableError: no answer.
        CaUntrustedError: another root. Nothing secret was sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint below decides, and nothing but a public path was sent
    der = _ask(url, context, way, "GET", PATH_CA)
    found = hashlib.sha256(der).digest()
    if found != sha256:
        raise CaUntrustedError(
            f"the server at {url} shows the root {found.hex()[:16]}..., the token names {sha256.hex()[:16]}...: "
            "somebody is between this device and the CA, or the token is another CA's; get a new token"
        )
    return der


def persistently(call: Callable[[], _T], sleep: Callable[[float], None]) -> _T:
    """Call until there is an answer, at most `ATTEMPTS` times with growing pauses. `call` must be safe to repeat.

    Raises:
        CaUnreachableError: the last failure.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except CaUnreachableError:
            sleep(_FIRST_WAIT_S * 2**attempt)
        except RefusedByCaError as refusal:
            if refusal.reason != EnrolmentReason.TOO_MANY_REQUESTS:
                raise
            sleep(_FIRST_WAIT_S * 2**attempt)
    return call()


class _Connection(http.client.HTTPSConnection):
    """HTTPS over a connection that is made by a `Way`; the certificate must carry the host's name as ever."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, way: Way) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._way, self._trust = way, context

    def connect(self) -> None:
        plain = self._way.dial(self.host, self.port, TIMEOUT_S)
        try:
            self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def close(self) -> None:
        if self.sock is not None:
            self._way.done(self.sock)
        super().close()


def _ask(url: str, context: ssl.SSLContext, way: Way, method: str, path: str, body: bytes | None = None) -> bytes:
    address = urlsplit(url)
    connection = _Connection(address.hostname or "", address.port or 443, context, way)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        raise CaUntrustedError(
            f"the server at {url} cannot prove that it is the fleet's CA: {error.verify_message}; "
            "check this device's clock (date) and the address in the token"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        said = printable(str(error))[:MAX_SHOWN_CHARS] or type(error).__name__
        raise CaUnreachableError(
            f"the CA at {url} does not answer ({said}); "
            "check the network and that fedge-ca runs, then give the same command again: nothing is lost"
        ) from None
    finally:
        connection.close()
    if len(answer) > MAX_ANSWER_BYTES:
        raise CaUnreachableError(f"the CA at {url} answers with more than {MAX_ANSWER_BYTES} bytes")
    if response.status != HTTPStatus.OK:
        raise _refusal(url, response.status, answer)
    return answer


def _refusal(url: str, status: int, answer: bytes) -> CaUnreachableError | RefusedByCaError:
    try:
        refusal = msgspec.json.decode(answer, type=Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return CaUnreachableError(f"the server at {url} answers {status}; is it a Fedge CA?")
    # before the root is proven this is anybody's text, for the owner's terminal and the log
    return RefusedByCaError(printable(refusal.reason), printable(refusal.detail), printable(refusal.cure))
