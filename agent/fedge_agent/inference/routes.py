"""What the server answers: the models there are, the one in service, and its outputs."""

import sys
from array import array
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fedge_agent.inference.child import MAX_ROWS
from fedge_agent.inference.model_process import ModelProcess
from fedge_agent.inference.models import Models
from fedge_agent.inference.refusals import STATUS, Reason, RefusedRequestError
from fedge_agent.inference.request import Head
from fedge_agent.model_slot import Slot

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"
PATH_MODELS: Final = "/v1/models"
PATH_MODEL: Final = "/v1/model"
PATH_INFER: Final = "/v1/infer"
METHODS: Final = {PATH_MODELS: "GET", PATH_MODEL: "GET", PATH_INFER: "POST"}
_FLOAT_BYTES: Final = 4


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/infer`: rows of numbers, `(n, input_dim)`."""

    inputs: Annotated[list[list[float]], Meta(min_length=1, max_length=MAX_ROWS)]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to be sent."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def refusal(error: RefusedRequestError) -> Answer:
    """The answer that names why."""
    found = {"reason": error.reason, "detail": error.detail, "cure": error.cure}
    return Answer(STATUS[error.reason], JSON, msgspec.json.encode(found))


def check_route(head: Head) -> None:
    """Refuse what no route takes, before its body is read.

    Raises:
        RefusedRequestError: `not-found`, `method-not-allowed`, `length-required`, `unsupported-type`, `malformed`.
    """
    method = METHODS.get(head.path)
    if method is None:
        raise RefusedRequestError(Reason.NOT_FOUND, head.path[:80], f"there are {', '.join(METHODS)}")
    if head.method != method:
        raise RefusedRequestError(Reason.METHOD_NOT_ALLOWED, f"{head.method} {head.path}", f"use {method}")
    if head.query.keys() - {"job"}:
        raise RefusedRequestError(Reason.MALFORMED, f"query {', '.join(head.query)[:80]!r}", "only job is known")
    if method == "POST":
        if head.length is None:
            raise RefusedRequestError(Reason.LENGTH_REQUIRED, "no Content-Length", "send the body whole")
        if head.content_type not in {JSON, RAW}:
            raise RefusedRequestError(
                Reason.UNSUPPORTED_TYPE, f"Content-Type {head.content_type[:80]!r}", f"send {JSON} or {RAW}"
            )


async def answered(head: Head, body: bytes, models: Models) -> Answer:
    """Carry out a request that `check_route` let pass.

    Raises:
        RefusedRequestError: with the reason.
    """
    if head.path == PATH_MODELS:
        return Answer(HTTPStatus.OK, JSON, msgspec.json.encode({"models": [_named(slot) for slot in models.listed()]}))
    job = head.query.get("job")
    if head.path == PATH_MODEL:
        process = await models.process(job)
        return Answer(HTTPStatus.OK, JSON, msgspec.json.encode(_described(process)))
    rows = _json_rows(body) if head.content_type == JSON else None  # refused before a model is loaded for it
    process = await models.process(job)
    if rows is None:
        return await _raw(process, body)
    outputs = await process.infer(len(rows), _packed(rows, process.about.input_dim))
    found = {"outputs": _unpacked(outputs, process.about.output_dim), "model": _named(process.slot)}
    return Answer(HTTPStatus.OK, JSON, msgspec.json.encode(found))


async def _raw(process: ModelProcess, body: bytes) -> Answer:
    width = _FLOAT_BYTES * process.about.input_dim
    rows, rest = divmod(len(body), width)
    if rest or not 1 <= rows <= MAX_ROWS:
        raise RefusedRequestError(
            Reason.BAD_INPUT, f"{len(body)} bytes", f"a row has {width} bytes; 1 to {MAX_ROWS} rows are accepted"
        )
    outputs = await process.infer(rows, body)
    slot = process.slot
    headers = {"Fedge-Shape": f"{rows},{process.about.output_dim}", "Fedge-Model": f"{slot.job}/{slot.round}"}
    return Answer(HTTPStatus.OK, RAW, outputs, headers)


def _json_rows(body: bytes) -> list[list[float]]:
    try:
        return msgspec.json.decode(body, type=Inputs).inputs
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedRequestError(Reason.BAD_INPUT, str(error)[:200], 'send {"inputs": [[1.0, ...], ...]}') from None


def _packed(rows: list[list[float]], width: int) -> bytes:
    flat = array("f")
    for number, row in enumerate(rows):
        if len(row) != width:
            raise RefusedRequestError(
                Reason.BAD_INPUT, f"row {number} has {len(row)} numbers", f"the model takes {width} in a row"
            )
        try:
            flat.extend(row)
        except OverflowError:
            raise RefusedRequestError(Reason.BAD_INPUT, f"row {number}: no float32", "send finite numbers") from None
    return _little(flat).tobytes()


def _unpacked(content: bytes, width: int) -> list[list[float]]:
    flat = array("f")
    flat.frombytes(content)
    values = _little(flat).tolist()
    return [values[start : start + width] for start in range(0, len(values), width)]


def _little(values: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _named(slot: Slot) -> dict[str, Any]:
    return {"job": slot.job, "round": slot.round, "weights": slot.weights, "landed_at": slot.landed_at}


def _described(process: ModelProcess) -> dict[str, Any]:
    about = process.about
    return {
        **_named(process.slot),
        "graph": process.slot.graph,
        "parameters": about.dim,
        "input_dim": about.input_dim,
        "output_dim": about.output_dim,
        "confinement": about.confinement,
    }
