"""The operator's door: the same desk, over a Unix socket that only the CA's user may open."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

import httpx
import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedge_coordinator.enrolment.api import as_json, decoded, refused
from fedge_coordinator.enrolment.bell import Bell
from fedge_coordinator.enrolment.desk import Desk, NewToken, Revocation
from fedge_coordinator.enrolment.errors import AuthorityFilesError, BusyError, EnrolmentError, NotFoundError
from fedge_coordinator.enrolment.registrar import DeviceState
from fedge_coordinator.enrolment.tokens import Label, TokenState, Ttl, Uses
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import EnrolmentRefusedError, Refusal

# a revocation waits until the broker has ended the session
_TIMEOUT_S: Final = 30.0
_T = TypeVar("_T")


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class _TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uses: Uses
    ttl_s: Ttl
    label: Label


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=253)]


class _ServiceWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Role
    names: Annotated[tuple[Annotated[str, Meta(max_length=253)], ...], Meta(max_length=16)]
    public_key: Annotated[bytes, Meta(max_length=256)]


def app(desk: Desk, bell: Bell) -> Starlette:
    """The ASGI application behind the socket."""

    def route(path: str, wish: type[_T], act: Callable[[_T], object]) -> Route:
        async def handle(request: Request) -> Response:
            asked = await decoded(request, wish)
            result = await run_in_threadpool(act, asked)
            bell.ring()
            return as_json(result)

        return Route(path, handle, methods=["POST"])

    return Starlette(
        routes=[
            route(
                "/token/create",
                _TokenWish,
                lambda w: desk.create_token(uses=w.uses, ttl_s=w.ttl_s, label=w.label),
            ),
            route("/token/list", _Nothing, lambda _: desk.list_tokens()),
            route("/token/revoke", _Named, lambda w: desk.revoke_token(w.name)),
            route("/devices", _Nothing, lambda _: desk.devices()),
            route("/revoke", _Named, lambda w: desk.revoke(w.name)),
            route("/crl", _Nothing, lambda _: desk.crl_pem()),
            route("/issue", _ServiceWish, lambda w: desk.issue_service(w.role, w.names, w.public_key)),
        ],
        exception_handlers={EnrolmentRefusedError: refused, EnrolmentError: _failed},
    )


class SocketDesk:
    """The desk of a running CA, by its socket. A `with` block closes the connection.

    Raises (every call):
        BusyError: the CA does not answer.
        EnrolmentError: what the CA said.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://ca", timeout=_TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def create_token(self, *, uses: int, ttl_s: int, label: str) -> NewToken:
        """Make a token."""
        return self._ask("/token/create", _TokenWish(uses, ttl_s, label), NewToken)

    def list_tokens(self) -> list[TokenState]:
        """All tokens, the newest first."""
        return self._ask("/token/list", _Nothing(), list[TokenState])

    def revoke_token(self, token_id: str) -> TokenState:
        """End a token."""
        return self._ask("/token/revoke", _Named(token_id), TokenState)

    def devices(self) -> list[DeviceState]:
        """All devices that ever were members."""
        return self._ask("/devices", _Nothing(), list[DeviceState])

    def revoke(self, name: str) -> Revocation:
        """End a device's or a service's certificates."""
        return self._ask("/revoke", _Named(name), Revocation)

    def crl_pem(self) -> bytes:
        """The present revocation list."""
        return self._ask("/crl", _Nothing(), bytes)

    def issue_service(self, role: Role, names: Sequence[str], public_key: bytes) -> bytes:
        """A certificate (DER) for a broker or the coordinator with this SPKI (DER)."""
        return self._ask("/issue", _ServiceWish(role, tuple(names), public_key), bytes)

    def _ask(self, path: str, wish: msgspec.Struct, kind: type[_T]) -> _T:
        try:
            response = self._client.post(path, content=msgspec.json.encode(wish))
        except httpx.TransportError as error:
            raise BusyError(
                f"{self._socket}: {error or type(error).__name__}; "
                "the CA holds its lock but does not answer: is it still starting?"
            ) from None
        if response.status_code != HTTPStatus.OK:
            refusal = msgspec.json.decode(response.content, type=Refusal)
            kinds: dict[str, type[EnrolmentError]] = {"NotFoundError": NotFoundError}
            raise kinds.get(refusal.reason, EnrolmentError)(refusal.detail)
        return msgspec.json.decode(response.content, type=kind)


async def _failed(_request: Request, error: Exception) -> Response:
    status = HTTPStatus.NOT_FOUND if isinstance(error, NotFoundError) else HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, AuthorityFilesError):
        status = HTTPStatus.BAD_REQUEST
    return as_json(Refusal(type(error).__name__, str(error)[:512], ""), status)
