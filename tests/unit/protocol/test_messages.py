import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.protocol.strategies import values_of

from fedge_protocol import messages
from fedge_protocol.cose import MAX_BODY_BYTES, decode, encode
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    Ack,
    BlobRef,
    Body,
    Entrant,
    PrekeyStatement,
    Presence,
    Refusal,
    Round,
    Seat,
    Training,
    Want,
    prekey_statement,
    survivors_statement,
)

KINDS = sorted(
    (
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Body) and kind is not Body
    ),
    key=lambda kind: kind.__name__,
)
any_body = st.sampled_from(KINDS).flatmap(values_of)
CERTIFICATE_BYTES = 1024
"""More than any certificate that the CA issues."""
TRAINING = Training("watch", 1, 0.1, 0.0, 0.0, 1.0, 1000, 10, 16)


def refused(kind: type[Body], plain: object) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        decode(encode(plain), kind)
    return caught.value


def assert_refused_or_canonical(kind: type[Body], data: bytes) -> None:
    with suppress(RefusedError):
        assert encode(decode(data, kind)) == data


@given(any_body)
def test_every_message_survives_the_wire(body):
    assert decode(encode(body), type(body)) == body


@given(st.sampled_from(KINDS), st.binary(max_size=600))
def test_arbitrary_bytes_are_refused_or_are_the_one_encoding_of_a_message(kind, data):
    assert_refused_or_canonical(kind, data)


@given(any_body, st.data())
def test_a_damaged_message_is_refused_or_is_another_valid_message(body, data):
    content = bytearray(encode(body))
    where = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert"])):
        case "flip":
            content[where] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[where:]
        case _:
            content.insert(where, data.draw(st.integers(0, 255)))
    assert_refused_or_canonical(type(body), bytes(content))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_field_more_or_less_is_refused(kind, data):
    plain = list(msgspec.to_builtins(data.draw(values_of(kind)), builtin_types=(bytes,)))
    assert refused(kind, [*plain, 0]).reason is Reason.MALFORMED
    assert refused(kind, plain[:-1]).reason is Reason.MALFORMED


def test_text_that_would_steer_a_terminal_or_a_database_is_refused():
    for detail in ("a\nb", "\x1b[2J", "nul\x00", "c1\x9b31m"):
        assert refused(Refusal, ["job", 1, 0, "not-admitted", detail]).reason is Reason.MALFORMED
        assert refused(Presence, [True, bytes(16), detail, 0]).reason is Reason.MALFORMED


def test_a_trailing_newline_is_no_part_of_a_name():
    assert refused(Entrant, ["0" * 32 + "\n", bytes(16)]).reason is Reason.MALFORMED
    assert refused(Refusal, ["job\n", 1, 0, "not-admitted", ""]).reason is Reason.MALFORMED
    assert refused(Refusal, ["job", 1, 0, "not-admitted\n", ""]).reason is Reason.MALFORMED
    assert refused(Ack, ["ready\n", 1, 0, bytes(32), ""]).reason is Reason.MALFORMED
    assert refused(Ack, ["ready", 1, 0, bytes(32), "\n"]).reason is Reason.MALFORMED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e10])
def test_a_learning_rate_that_is_no_positive_number_is_refused(value):
    plain = msgspec.to_builtins(TRAINING)
    plain[2] = value
    assert refused(Training, plain).reason is Reason.MALFORMED


def test_a_number_in_place_of_bytes_or_text_is_refused_and_never_converted():
    assert refused(Want, [7]).reason is Reason.MALFORMED
    assert refused(Want, ["0" * 32]).reason is Reason.MALFORMED
    assert refused(BlobRef, [bytes(32), "7"]).reason is Reason.MALFORMED
    assert refused(BlobRef, [bytes(32), True]).reason is Reason.MALFORMED
    assert refused(BlobRef, [bytes(32), 7.0]).reason is Reason.MALFORMED


def test_a_body_above_the_bound_is_refused_before_it_is_decoded():
    with pytest.raises(RefusedError) as caught:
        decode(bytes(MAX_BODY_BYTES + 1), Want)
    assert caught.value.reason is Reason.OVERSIZED


def test_the_round_of_the_largest_cohort_fits_into_a_message():
    key = bytes(32)
    prekey = PrekeyStatement(2**53, key, key, bytes(64))
    largest = Round(
        job="j" * 48,
        round=2**53,
        attempt=65535,
        offer_hash=key,
        model_hash=key,
        seed=key,
        entrants=tuple(Entrant(f"{n:032x}", bytes(16)) for n in range(messages.MAX_COHORT)),
        bucket=127,
        seats=tuple(Seat(f"{n:032x}", bytes(CERTIFICATE_BYTES), prekey, 1024) for n in range(33)),
        threshold=23,
        levels=992,
        coordinate_range=0.1,
        rotation_seed=key,
    )
    assert len(encode(largest)) <= MAX_BODY_BYTES


@given(st.lists(st.tuples(st.integers(0, 2**53), st.binary(min_size=32, max_size=32)), min_size=2, max_size=2))
def test_prekey_statements_of_different_prekeys_differ(drawn):
    (first_id, first_key), (second_id, second_key) = drawn
    statements = [prekey_statement("f", "d", number, key, key) for number, key in drawn]
    assert (statements[0] == statements[1]) == ((first_id, first_key) == (second_id, second_key))


def test_survivor_statements_bind_context_seats_and_vectors():
    one, two = bytes(32), b"\x01" * 32
    statements: set[Any] = {
        survivors_statement(one, (0, 1), (one, two)),
        survivors_statement(two, (0, 1), (one, two)),
        survivors_statement(one, (0, 2), (one, two)),
        survivors_statement(one, (0, 1), (two, one)),
        survivors_statement(one, (0, 1, 2), (one, two)),
    }
    assert len(statements) == 5
