"""The head of an HTTP/1.1 request (RFC 9112), as strict as a server for programs on one machine can be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from fedge_agent.inference.refusals import Reason, RefusedRequestError

MAX_HEAD_BYTES: Final = 8192
_MAX_HEADERS: Final = 64
_REQUEST_LINE: Final = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,512}) HTTP/1\.([01])")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([ -~\t]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,12}")
_CURE: Final = "send HTTP/1.1 as RFC 9112 has it"


@dataclass(frozen=True, slots=True)
class Head:
    """A decoded head. `headers` by lower-case name; `length` of the body, None when the request announced none."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    length: int | None
    keep_alive: bool

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case; empty when there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def waits_for_continue(self) -> bool:
        """Whether the body is sent only after `100 Continue`."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(data: bytes) -> Head:
    """Decode everything up to the empty line.

    Raises:
        RefusedRequestError: `malformed`, `length-required`.
    """
    try:
        first, *lines = data.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError:
        raise RefusedRequestError(Reason.MALFORMED, "the head is not ASCII", _CURE) from None
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise RefusedRequestError(Reason.MALFORMED, f"no request line: {first[:80]!r}", _CURE)
    headers = _headers(lines)
    if "transfer-encoding" in headers:
        raise RefusedRequestError(
            Reason.LENGTH_REQUIRED, "the body comes in an encoding", "send it whole, with Content-Length"
        )
    length = headers.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise RefusedRequestError(Reason.MALFORMED, f"Content-Length: {length[:40]}", _CURE)
    path, _, query = request[2].partition("?")
    wanted = headers.get("connection", "").lower()
    return Head(
        method=request[1],
        path=path,
        query=_query(query),
        headers=headers,
        length=None if length is None else int(length),
        keep_alive="close" not in wanted and (request[3] == "1" or "keep-alive" in wanted),
    )


def _headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > _MAX_HEADERS:
        raise RefusedRequestError(Reason.MALFORMED, f"{len(lines)} header fields, at most {_MAX_HEADERS}", _CURE)
    found: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise RefusedRequestError(Reason.MALFORMED, f"no header field: {line[:80]!r}", _CURE)
        name = field[1].lower()
        if name in found:
            raise RefusedRequestError(Reason.MALFORMED, f"two fields {name}", _CURE)
        found[name] = field[2].strip()
    return found


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=8)
    except ValueError as error:
        raise RefusedRequestError(Reason.MALFORMED, f"query {text[:80]!r}: {error}", _CURE) from None
    if len(dict(pairs)) != len(pairs):
        raise RefusedRequestError(Reason.MALFORMED, f"query {text[:80]!r}: a name twice", _CURE)
    return dict(pairs)
