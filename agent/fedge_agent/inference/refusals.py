"""Why the inference server refuses: each reason has one HTTP status."""

from enum import StrEnum
from http import HTTPStatus
from typing import Final


class Reason(StrEnum):
    """The names that stand in answers."""

    MALFORMED = "malformed"
    BAD_INPUT = "bad-input"
    FORBIDDEN_HOST = "forbidden-host"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    LENGTH_REQUIRED = "length-required"
    OVERSIZED = "oversized"
    UNSUPPORTED_TYPE = "unsupported-type"
    HEAD_TOO_LONG = "head-too-long"
    TOO_SLOW = "too-slow"
    NO_MODEL = "no-model"
    BAD_MODEL = "bad-model"
    MODEL_CRASHED = "model-crashed"
    TIMEOUT = "timeout"
    BUSY = "busy"


STATUS: Final = {
    Reason.MALFORMED: HTTPStatus.BAD_REQUEST,
    Reason.BAD_INPUT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.FORBIDDEN_HOST: HTTPStatus.FORBIDDEN,
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    Reason.LENGTH_REQUIRED: HTTPStatus.LENGTH_REQUIRED,
    Reason.OVERSIZED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.UNSUPPORTED_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.HEAD_TOO_LONG: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Reason.TOO_SLOW: HTTPStatus.REQUEST_TIMEOUT,
    Reason.NO_MODEL: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.BAD_MODEL: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.MODEL_CRASHED: HTTPStatus.BAD_GATEWAY,
    Reason.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
}


class RefusedRequestError(Exception):
    """A request is refused; nothing was changed by it.

    Args:
        reason: the name.
        detail: what is wrong, with the value at fault.
        cure: what the asker can do about it.
    """

    def __init__(self, reason: Reason, detail: str, cure: str) -> None:
        super().__init__(f"{reason}: {detail}; {cure}")
        self.reason = reason
        self.detail = detail
        self.cure = cure
