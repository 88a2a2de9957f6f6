from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.inference.refusals import STATUS, Reason, RefusedRequestError
from fedge_agent.inference.request import Head, parse_head


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_whole_head_is_read():
    found = parse_head(
        head(
            "POST /v1/infer?job=digits HTTP/1.1",
            "Host: localhost",
            "Content-Type: Application/JSON; charset=utf-8",
            "Content-Length:  12 ",
            "Expect: 100-Continue",
        )
    )
    assert (found.method, found.path, dict(found.query)) == ("POST", "/v1/infer", {"job": "digits"})
    assert (found.content_type, found.length, found.keep_alive) == ("application/json", 12, True)
    assert found.waits_for_continue


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "Keep-Alive", True)],
)
def test_whether_the_connection_goes_on(version, connection, kept):
    lines = [f"GET / HTTP/{version}"] + ([f"Connection: {connection}"] if connection else [])
    assert parse_head(head(*lines)).keep_alive is kept


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (head(""), Reason.MALFORMED),
        (head("GET"), Reason.MALFORMED),
        (head("GET /"), Reason.MALFORMED),
        (head("GET / HTTP/2.0"), Reason.MALFORMED),
        (head("get / HTTP/1.1"), Reason.MALFORMED),
        (head("GET  / HTTP/1.1"), Reason.MALFORMED),
        (head("GET http://x/ HTTP/1.1"), Reason.MALFORMED),
        (head("GET /" + "a" * 600 + " HTTP/1.1"), Reason.MALFORMED),
        (head("GET / HTTP/1.1\nHost: x"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", "Host : x"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", " folded: x"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", "Host"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", "Host: a", "host: b"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", "X: \x00"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", "X: \xff"), Reason.MALFORMED),
        (head("GET / HTTP/1.1", *(f"X{n}: 1" for n in range(65))), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: -1"), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: +1"), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: 1_0"), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: 9999999999999"), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 1"), Reason.MALFORMED),
        (head("POST / HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"), Reason.LENGTH_REQUIRED),
        (head("GET /v1/model?job HTTP/1.1"), Reason.MALFORMED),
        (head("GET /v1/model?job=a&job=b HTTP/1.1"), Reason.MALFORMED),
        (head("GET /?" + "&".join(f"a{n}=1" for n in range(9)) + " HTTP/1.1"), Reason.MALFORMED),
    ],
)
def test_what_is_no_head_is_refused_by_name(data, reason):
    with pytest.raises(RefusedRequestError) as refused:
        parse_head(data)
    assert refused.value.reason is reason
    assert len(str(refused.value)) < 300


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: head("GET / HTTP/1.1") + text.encode()))
def test_any_bytes_are_a_head_or_refused(data):
    with suppress(RefusedRequestError):
        assert isinstance(parse_head(data), Head)


def test_each_reason_has_a_status_of_a_refusal():
    assert set(STATUS) == set(Reason)
    assert all(status >= 400 for status in STATUS.values())
