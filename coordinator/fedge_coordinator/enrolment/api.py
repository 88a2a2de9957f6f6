"""The CA's public door: HTTPS, bounded bodies, typed values, named refusals. No secret is logged."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fedge_coordinator.enrolment.authority import Authority
from fedge_coordinator.enrolment.bell import Bell
from fedge_coordinator.enrolment.desk import Desk
from fedge_coordinator.enrolment.registrar import Registrar
from fedge_coordinator.enrolment.throttle import Throttle
from fedge_protocol import cose
from fedge_protocol.enrolment import (
    MAX_BODY_BYTES,
    PATH_CA,
    PATH_CRL,
    PATH_ENROL,
    PATH_FLEET,
    PATH_LEAVE,
    PATH_MEMBERSHIP,
    PATH_RENEW,
    EnrolmentReason,
    EnrolmentRefusedError,
    EnrolRequest,
    LeaveAnswer,
    LeaveRequest,
    Refusal,
    RenewRequest,
)

LOG = logging.getLogger(__name__)
LONG_POLL_S: Final = 50.0
BODY_TIMEOUT_S: Final = 10.0
_MAX_SEQ: Final = 2**53
_STATUS: Final = {
    EnrolmentReason.MALFORMED: HTTPStatus.BAD_REQUEST,
    EnrolmentReason.OVERSIZED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    EnrolmentReason.TOO_MANY_REQUESTS: HTTPStatus.TOO_MANY_REQUESTS,
    EnrolmentReason.UNKNOWN_TOKEN: HTTPStatus.FORBIDDEN,
    EnrolmentReason.TOKEN_EXPIRED: HTTPStatus.FORBIDDEN,
    EnrolmentReason.TOKEN_REVOKED: HTTPStatus.FORBIDDEN,
    EnrolmentReason.TOKEN_USED: HTTPStatus.CONFLICT,
    EnrolmentReason.BAD_CSR: HTTPStatus.UNPROCESSABLE_ENTITY,
    EnrolmentReason.BAD_BINDING: HTTPStatus.UNPROCESSABLE_ENTITY,
    EnrolmentReason.WRONG_CHAIN: HTTPStatus.CONFLICT,
    EnrolmentReason.CHAIN_ADDRESS_IN_USE: HTTPStatus.CONFLICT,
    EnrolmentReason.DEVICE_REVOKED: HTTPStatus.FORBIDDEN,
    EnrolmentReason.UNKNOWN_DEVICE: HTTPStatus.FORBIDDEN,
    EnrolmentReason.NO_CERTIFICATE: HTTPStatus.UNAUTHORIZED,
    EnrolmentReason.NO_COORDINATOR: HTTPStatus.SERVICE_UNAVAILABLE,
}
_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes of the HTTPS listener."""

    def __init__(
        self, registrar: Registrar, authority: Authority, bell: Bell, throttle: Throttle, *, desk: Desk
    ) -> None:
        self._registrar = registrar
        self._desk = desk
        self._authority = authority
        self._bell = bell
        self._throttle = throttle

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route(PATH_CA, self._ca),
                Route(PATH_FLEET, self._fleet),
                Route(PATH_ENROL, self._enrol, methods=["POST"]),
                Route(PATH_RENEW, self._renew, methods=["POST"]),
                Route(PATH_LEAVE, self._leave, methods=["POST"]),
                Route(PATH_MEMBERSHIP, self._membership),
                Route(PATH_CRL, self._crl),
            ],
            exception_handlers={EnrolmentRefusedError: refused, HTTPException: no_such_path},
        )

    async def _ca(self, _request: Request) -> Response:
        return Response(self._authority.der, media_type="application/pkix-cert")

    async def _fleet(self, _request: Request) -> Response:
        return as_json(self._registrar.fleet_info())

    async def _enrol(self, request: Request) -> Response:
        self._hold_back(_caller(request))
        body = await decoded(request, EnrolRequest)
        answer = await run_in_threadpool(self._registrar.enrol, body)
        self._bell.ring()
        LOG.info("enrolled a device; the membership log has %d entries", answer.head.seq)
        return as_json(answer)

    async def _renew(self, request: Request) -> Response:
        self._hold_back(_caller(request))
        body = await decoded(request, RenewRequest)
        answer = await run_in_threadpool(self._registrar.renew, _peer(request), body)
        self._bell.ring()
        LOG.info("renewed a device; the membership log has %d entries", answer.head.seq)
        return as_json(answer)

    async def _leave(self, request: Request) -> Response:
        """A device ends its own membership, as the operator would: log, revocation lists, broker, session."""
        self._hold_back(_caller(request))
        body = await decoded(request, LeaveRequest)
        device_id = await run_in_threadpool(self._registrar.leaving, _peer(request), body)
        LOG.info("device %s leaves the fleet", device_id)
        await run_in_threadpool(self._desk.revoke, device_id)
        self._bell.ring()
        return as_json(LeaveAnswer(device_id))

    async def _membership(self, request: Request) -> Response:
        after = _after(request)
        await run_in_threadpool(self._registrar.require_reader, _peer(request))
        ticket = self._bell.ticket()
        page = await run_in_threadpool(self._registrar.page, after)
        if page.head.seq == after:
            try:
                async with asyncio.timeout(LONG_POLL_S):
                    await ticket.wait()
            except TimeoutError:
                pass
            page = await run_in_threadpool(self._registrar.page, after)
        return Response(cose.encode(page), media_type="application/cbor")

    async def _crl(self, request: Request) -> Response:
        self._hold_back(_caller(request))
        return Response(await run_in_threadpool(self._registrar.crl_pem), media_type="application/x-pem-file")

    def _hold_back(self, caller: str) -> None:
        wait_s = self._throttle.take(caller)
        if wait_s > 0:
            raise EnrolmentRefusedError(
                EnrolmentReason.TOO_MANY_REQUESTS,
                f"{caller} asks too often",
                f"ask again in {math.ceil(wait_s)} s",
            )


async def refused(_request: Request, error: Exception) -> Response:
    """Answer a refusal with its reason, its cure and the HTTP status of that reason."""
    if not isinstance(error, EnrolmentRefusedError):
        raise error
    LOG.warning("refused: %s", error)
    response = as_json(Refusal(error.reason, error.detail[:512], error.cure[:512]), _STATUS[error.reason])
    if error.reason is EnrolmentReason.TOO_MANY_REQUESTS:
        response.headers["Retry-After"] = "1"
    return response


async def no_such_path(_request: Request, error: Exception) -> Response:
    """Answer an unknown path or method in the same form as every refusal."""
    if not isinstance(error, HTTPException):
        raise error
    body = Refusal(EnrolmentReason.MALFORMED, error.detail[:512], "is this the URL of the fleet's CA?")
    return as_json(body, HTTPStatus(error.status_code))


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A struct as a JSON answer that nobody keeps."""
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


async def decoded(request: Request, kind: type[_T]) -> _T:
    """Read a body of at most `MAX_BODY_BYTES` within `BODY_TIMEOUT_S` and decode it into `kind`.

    Raises:
        EnrolmentRefusedError: `oversized` or `malformed`.
    """
    cure = "is this agent of the same version as the CA?"
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise EnrolmentRefusedError(EnrolmentReason.OVERSIZED, f"more than {MAX_BODY_BYTES} bytes", cure)
    except (TimeoutError, ClientDisconnect):
        raise EnrolmentRefusedError(EnrolmentReason.MALFORMED, "the request was not finished", "ask again") from None
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnrolmentRefusedError(EnrolmentReason.MALFORMED, str(error)[:200], cure) from None


def _caller(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _peer(request: Request) -> bytes | None:
    peer = getattr(request.state, "peer_certificate", None)
    return peer if isinstance(peer, bytes) else None


def _after(request: Request) -> int:
    text = request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_SEQ))) or int(text) > _MAX_SEQ:
        raise EnrolmentRefusedError(EnrolmentReason.MALFORMED, "after is no entry's number", "give after=SEQ")
    return int(text)
