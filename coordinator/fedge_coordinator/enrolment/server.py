"""The running CA: HTTPS for devices and the coordinator, a Unix socket for the operator, one event loop, clean ends."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import sdnotify
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedge_coordinator.enrolment import operator
from fedge_coordinator.enrolment.api import Api
from fedge_coordinator.enrolment.authority import private_pem
from fedge_coordinator.enrolment.bell import Bell
from fedge_coordinator.enrolment.desk import CERTIFICATE, SOCKET, OpenOffice, open_office, ownership
from fedge_coordinator.enrolment.errors import AuthorityFilesError, BrokerError, BusyError
from fedge_coordinator.enrolment.files import PRIVATE, write_durably
from fedge_coordinator.enrolment.throttle import Throttle
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import MAX_BODY_BYTES

LOG = logging.getLogger(__name__)
SERVER: Final = "server.pem"
_MAINTENANCE_S: Final = 24 * 3600
_RENEW_BEFORE: Final = timedelta(days=30)
_MAX_CONNECTIONS: Final = 512
_SHUTDOWN_S: Final = 2
# a caller may ask this often; a hundred devices behind one address enrol in ten seconds
_PER_S: Final = 10.0
_BURST: Final = 50.0


class _TlsProtocol(H11Protocol):
    """Gives the handlers the peer's certificate (DER) as `request.state.peer_certificate`; ASGI has no place for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base declares it
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLObject) else None
        self.app_state = {**self.app_state, "peer_certificate": peer}


class _Server(uvicorn.Server):
    """Leaves the signals to `run`, which has two servers to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(folder: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BusyError: another CA runs in this directory, or the address is taken.
        AuthorityFilesError: keys missing or exposed.
        SettingsError: `ca.toml` cannot be used.
    """
    with ownership(folder) as owned:
        if not owned:
            raise BusyError(f"{folder} is owned by another process; is this CA running already?")
        asyncio.run(_serve(open_office(folder, time.time)))


async def _serve(office: OpenOffice) -> None:
    bell, stop = Bell(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    context = _tls(office)
    throttle = Throttle(per_s=_PER_S, burst=_BURST, clock=time.monotonic)
    public = Api(office.registrar, office.authority, bell, throttle, desk=office.desk).app()
    servers = [
        (_uvicorn(public, context), _listen(office)),
        (_uvicorn(operator.app(office.desk, bell), None), _listen_unix(office.folder / SOCKET)),
    ]
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
    maintenance = asyncio.create_task(_maintain(office, context))
    LOG.info("fleet %s: devices enrol at %s", office.settings.fleet, office.settings.url)
    sdnotify.SystemdNotifier().notify("READY=1")
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    sdnotify.SystemdNotifier().notify("STOPPING=1")
    stopping.cancel()
    maintenance.cancel()
    bell.close()
    for server, _ in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)
    (office.folder / SOCKET).unlink(missing_ok=True)


def _uvicorn(app: Starlette, context: ssl.SSLContext | None) -> _Server:
    config = uvicorn.Config(
        app,
        http=_TlsProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_BODY_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    return _Server(config)


def _listen(office: OpenOffice) -> socket.socket:
    settings = office.settings
    try:
        family, kind, proto, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise BusyError(f"cannot listen on {settings.listen}: {error.strerror}; change listen in ca.toml") from None
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """A socket that is closed to others before it can be connected to. The lock says that an old one is stale."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise BusyError(f"cannot listen on {path}: {error.strerror}; is the path longer than 107 characters?") from None
    finally:
        os.umask(before)
    return listener


def _tls(office: OpenOffice) -> ssl.SSLContext:
    """Our certificate for every caller; a client certificate is optional here and asked for by each route."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(office.folder / CERTIFICATE)
    context.verify_mode = ssl.CERT_OPTIONAL
    _load_server_certificate(office, context)
    return context


def _load_server_certificate(office: OpenOffice, context: ssl.SSLContext) -> None:
    """Use the stored HTTPS certificate, or make a new one when it is missing, runs out soon or is for other names."""
    path = office.folder / SERVER
    wanted = list(office.settings.names)
    if not path.exists() or _outdated(path.read_bytes(), wanted):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = office.registrar.issue_service(Role.SERVER, wanted, key.public_key())
        pem = private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)
        write_durably(path, pem, mode=PRIVATE)
    try:
        context.load_cert_chain(path)
    except ssl.SSLError:
        raise AuthorityFilesError(f"{path} cannot be used; remove it and start again") from None


def _outdated(pem: bytes, wanted: list[str]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return True
    held = {str(cast("object", name.value)) for name in names}
    return certificate.not_valid_after_utc - datetime.now(UTC) < _RENEW_BEFORE or held != set(wanted)


async def _maintain(office: OpenOffice, context: ssl.SSLContext) -> None:
    """At the start and every day: fresh revocation lists for the broker, a fresh HTTPS certificate when it is due."""
    while True:
        try:
            await asyncio.to_thread(office.desk.publish)
        except BrokerError as error:
            LOG.warning("the broker was not told about revocations: %s", error)
        _load_server_certificate(office, context)
        await asyncio.sleep(_MAINTENANCE_S)
