"""The API: `/v1/...` on the Unix socket. Whoever may open the socket may do everything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fedge_coordinator.api.events import WatcherTooSlowError
from fedge_coordinator.api.operations import FleetOperations
from fedge_coordinator.api.problem import ProblemKind
from fedge_coordinator.api.problems import RequestRefusedError, answer
from fedge_coordinator.api.views import Event
from fedge_coordinator.store.errors import StoreError
from fedge_protocol import jobspec
from fedge_protocol.jobspec import JobSpecError

MAX_BODY_BYTES: Final = 256 * 1024
KEEPALIVE_S: Final = 15.0


def build_app(fleet: FleetOperations, *, keepalive_s: float = KEEPALIVE_S) -> Starlette:
    """The API over one fleet. An idle event stream carries a comment every `keepalive_s`."""
    routes = _Routes(fleet, keepalive_s)
    return Starlette(
        routes=[
            Route("/v1/jobs", routes.jobs),
            Route("/v1/jobs/{name}", routes.job),
            Route("/v1/jobs/{name}", routes.apply, methods=["PUT"]),
            Route("/v1/jobs/{name}/{action:str}", routes.steer, methods=["POST"]),
            Route("/v1/rounds", routes.rounds),
            Route("/v1/devices", routes.devices),
            Route("/v1/devices/{device}", routes.device),
            Route("/v1/devices/{device}/accept", routes.accept_device, methods=["POST"]),
            Route("/v1/checkpoints", routes.checkpoints),
            Route("/v1/rewards", routes.rewards),
            Route("/v1/ledger", routes.ledger),
            Route("/v1/events", routes.events),
        ],
        exception_handlers={
            HTTPException: _http_error,
            RequestRefusedError: answer,
            JobSpecError: answer,
            StoreError: answer,
            Exception: answer,
        },
    )


class _Routes:
    def __init__(self, fleet: FleetOperations, keepalive_s: float) -> None:
        self._fleet = fleet
        self._keepalive_s = keepalive_s

    async def jobs(self, _request: Request) -> Response:
        return _json(await self._fleet.jobs())

    async def job(self, request: Request) -> Response:
        return _json(await self._fleet.job(request.path_params["name"]))

    async def apply(self, request: Request) -> Response:
        job = jobspec.parse(await _document(request))
        name = request.path_params["name"]
        if job.metadata.name != name:
            raise RequestRefusedError(
                ProblemKind.MALFORMED,
                HTTPStatus.BAD_REQUEST,
                f"the path names job {name!r}, the document {job.metadata.name!r}",
                "put the document to /v1/jobs/ and its own metadata.name",
            )
        return _json(await self._fleet.apply(job, dry_run=_flag(request, "dryRun")))

    async def steer(self, request: Request) -> Response:
        actions = {"pause": self._fleet.pause, "resume": self._fleet.resume, "cancel": self._fleet.cancel}
        action = actions.get(request.path_params["action"])
        if action is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _json(await action(request.path_params["name"]))

    async def rounds(self, request: Request) -> Response:
        return _json(await self._fleet.rounds(request.query_params.get("job")))

    async def devices(self, _request: Request) -> Response:
        return _json(await self._fleet.devices())

    async def device(self, request: Request) -> Response:
        return _json(await self._fleet.device(request.path_params["device"]))

    async def accept_device(self, request: Request) -> Response:
        return _json(await self._fleet.accept_device(request.path_params["device"]))

    async def checkpoints(self, request: Request) -> Response:
        return _json(await self._fleet.checkpoints(request.query_params.get("job")))

    async def rewards(self, request: Request) -> Response:
        return _json(await self._fleet.rewards(request.query_params.get("job")))

    async def ledger(self, _request: Request) -> Response:
        lines = await self._fleet.ledger()
        return Response(b"".join(line + b"\n" for line in lines), media_type="application/jsonl")

    async def events(self, request: Request) -> Response:
        text = request.headers.get("last-event-id") or request.query_params.get("after")
        if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= len(str(2**53))):
            raise RequestRefusedError(
                ProblemKind.MALFORMED, HTTPStatus.BAD_REQUEST, f"after={text[:20]!r} is no event id", "give a number"
            )
        events = self._fleet.events(None if text is None else int(text))
        return StreamingResponse(
            _stream(events, self._keepalive_s), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


async def _stream(events: AsyncIterator[Event], keepalive_s: float) -> AsyncIterator[bytes]:
    """Server-sent events (WHATWG HTML, 9.2)."""
    coming: asyncio.Task[Event] | None = asyncio.ensure_future(_next(events))
    try:
        await asyncio.sleep(0)  # the watcher is registered now: whoever reads the state after this line misses nothing
        yield b": watching\n\n"
        while True:
            coming = coming or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait({coming}, timeout=keepalive_s)
            if not done:
                yield b": still here\n\n"
                continue
            event, coming = coming.result(), None
            yield f"id: {event.id}\nevent: {event.name}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()
    except (StopAsyncIteration, WatcherTooSlowError):
        return
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, WatcherTooSlowError):
                await coming


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _document(request: Request) -> object:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise RequestRefusedError(
                ProblemKind.TOO_LARGE,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body exceeds {MAX_BODY_BYTES} bytes",
                "a job document is a few kilobytes; put weights elsewhere",
            )
    try:
        return msgspec.json.decode(bytes(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefusedError(
            ProblemKind.MALFORMED, HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}", "send one JSON document"
        ) from error


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise RequestRefusedError(
            ProblemKind.MALFORMED, HTTPStatus.BAD_REQUEST, f"{name}={text[:20]!r}", f"give {name}=true or {name}=false"
        )
    return text == "true"


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    kind = ProblemKind.NOT_FOUND if status is HTTPStatus.NOT_FOUND else ProblemKind.MALFORMED
    refused = RequestRefusedError(
        kind, status, f"{request.method} {request.url.path}: {status.phrase}", "use the fedgectl of this version"
    )
    return await answer(request, refused)
