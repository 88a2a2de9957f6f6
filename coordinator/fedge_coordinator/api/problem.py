"""What a refusal looks like on the wire (RFC 9457)."""

from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"


class ProblemKind(StrEnum):
    """The stable name of a problem; the last part of its `type`."""

    NOT_FOUND = "not-found"
    INVALID_DOCUMENT = "invalid-document"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    MODEL_CHANGED = "model-changed"
    WRONG_STATE = "wrong-state"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class FaultView(msgspec.Struct, frozen=True):
    """One fault of a document; `path` as in `spec.training.epochs`."""

    path: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """The body of an answer that is an error."""

    type: str
    title: str
    status: int
    detail: str
    cure: str
    faults: tuple[FaultView, ...] = ()

    @property
    def kind(self) -> str:
        """The last part of `type`."""
        return self.type.rpartition(":")[2]


def make(kind: ProblemKind, status: HTTPStatus, detail: str, cure: str, faults: tuple[FaultView, ...] = ()) -> Problem:
    """A problem whose title follows from its kind."""
    return Problem(f"urn:fedge:problem:{kind}", kind.replace("-", " "), int(status), detail, cure, faults)
