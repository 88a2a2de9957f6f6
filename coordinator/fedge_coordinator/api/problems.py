"""Errors of the API as RFC 9457 problems: what happened, and the cure."""

import logging
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fedge_coordinator.api.problem import MEDIA_TYPE, FaultView, Problem, ProblemKind, make
from fedge_coordinator.store.errors import (
    JobStateError,
    ModelChangedError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from fedge_protocol.faults import path_text
from fedge_protocol.jobspec import JobSpecError

_log = logging.getLogger(__name__)


class RequestRefusedError(Exception):
    """A request that is refused before any operation runs."""

    def __init__(self, kind: ProblemKind, status: HTTPStatus, detail: str, cure: str) -> None:
        super().__init__(detail)
        self.problem = make(kind, status, detail, cure)


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911 - one return a kind
    """The problem that an error of the operations is."""
    match error:
        case RequestRefusedError():
            return error.problem
        case JobSpecError():
            return make(
                ProblemKind.INVALID_DOCUMENT,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"{len(error.faults)} fault{'s' * (len(error.faults) > 1)} in the document",
                "correct the fields listed and apply again",
                tuple(FaultView(path_text(fault.path), fault.message) for fault in error.faults),
            )
        case NotFoundError():
            return make(ProblemKind.NOT_FOUND, HTTPStatus.NOT_FOUND, str(error), "list what there is: fedgectl get")
        case ModelChangedError():
            return make(
                ProblemKind.MODEL_CHANGED,
                HTTPStatus.CONFLICT,
                str(error),
                "restore the old spec.model and batchSize, or use another metadata.name",
            )
        case JobStateError():
            return make(ProblemKind.WRONG_STATE, HTTPStatus.CONFLICT, str(error), "see: fedgectl describe job NAME")
        case StoreUnavailableError() | StoreError():
            return make(
                ProblemKind.UNAVAILABLE,
                HTTPStatus.SERVICE_UNAVAILABLE,
                str(error),
                "check the coordinator's disk and log: journalctl -u fedge-coordinator",
            )
        case _:
            return make(
                ProblemKind.INTERNAL,
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"the coordinator failed: {type(error).__name__}",
                "see its log: journalctl -u fedge-coordinator",
            )


async def answer(_request: Request, error: Exception) -> Response:
    """The answer to a request that failed. What is nobody's fault but ours goes to the log."""
    problem = problem_of(error)
    if problem.kind == ProblemKind.INTERNAL:
        _log.error("request failed", exc_info=error)
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE)
