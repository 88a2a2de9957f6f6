import base64

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.enrolment import (
    MAX_TOKEN_CHARS,
    TOKEN_PREFIX,
    EnrolAnswer,
    EnrolRequest,
    RenewRequest,
    Token,
    parse_token,
)
from fedge_protocol.errors import Reason, RefusedError

TOKEN = Token("https://ca.example.org:8443", "lab", bytes(range(32)), bytes(range(16)))


def encoded(value: object) -> str:
    return TOKEN_PREFIX + base64.urlsafe_b64encode(cbor2.dumps(value, canonical=True)).decode().rstrip("=")


@given(
    st.from_regex(r"\Ahttps://[A-Za-z0-9.:-]{1,60}\Z"),
    st.from_regex(r"\A[a-z0-9-]{1,32}\Z"),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=32),
)
def test_a_token_survives_its_text(url, fleet, fingerprint, secret):
    token = Token(url, fleet, fingerprint, secret)
    assert parse_token(token.text()) == token
    assert parse_token(f"  {token.text()}\n") == token


def test_the_text_is_the_promised_one():
    fields = cbor2.loads(base64.urlsafe_b64decode(TOKEN.text().removeprefix("fedge1.") + "=="))
    assert fields == {
        "url": TOKEN.url,
        "fleet": "lab",
        "ca_sha256": TOKEN.ca_sha256,
        "secret": TOKEN.secret,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fedge1.",
        TOKEN.text()[:-4],
        TOKEN.text() + "A",
        TOKEN.text().replace("fedge1.", "fedge2."),
        TOKEN.text() + "=",
        TOKEN.text().replace("-", "+", 1) + "!",
        encoded([1, 2]),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "more": 1}),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "url": "http://ca.example.org"}),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "url": "https://ca.example.org/path"}),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "url": "https://ca.example.org\n"}),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "fleet": "UPPER"}),
        encoded({**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), "secret": b"short"}),
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(text):
    with pytest.raises(RefusedError) as refusal:
        parse_token(text)
    assert refusal.value.reason is Reason.MALFORMED
    assert len(text) < 12 or text.removeprefix(TOKEN_PREFIX) not in str(refusal.value)


def test_a_very_long_token_is_refused_unread():
    with pytest.raises(RefusedError) as refusal:
        parse_token(TOKEN_PREFIX + "A" * MAX_TOKEN_CHARS)
    assert refusal.value.reason is Reason.OVERSIZED


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_a_refusal(text):
    with pytest.raises(RefusedError):
        parse_token(TOKEN_PREFIX + text)


def test_secrets_do_not_show_in_representations():
    shown = repr(TOKEN) + repr(EnrolRequest(TOKEN.secret, b"x", None))  # type: ignore[arg-type] # only its text
    assert repr(TOKEN.secret)[2:-1] not in shown
    assert TOKEN.secret.hex() not in shown


@pytest.mark.parametrize("kind", [EnrolRequest, RenewRequest, EnrolAnswer])
@given(content=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_hostile_bodies_decode_to_nothing(kind, content):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        msgspec.json.decode(content, type=kind)
