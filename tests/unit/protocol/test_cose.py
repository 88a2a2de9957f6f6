from contextlib import suppress

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.cose import (
    MAX_BODY_BYTES,
    context_of,
    decode,
    encode,
    open_signed,
    sign,
    sign_raw,
    verify,
    verify_raw,
)
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Want

KEY = ec.derive_private_key(7, ec.SECP256R1())
OTHER = ec.derive_private_key(8, ec.SECP256R1())
CONTEXT = context_of("fleet", "0" * 32, "want")
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
tagged_values = st.builds(
    cbor2.CBORTag,
    st.sampled_from([0, 1, 2, 4, 5, 18, 24, 25, 28, 29, 30, 35, 36, 37, 43000, 100, 256, 258, 260, 261, 1004, 55799]),
    plain_values,
)


def reason_of(message: bytes, key: ec.EllipticCurvePrivateKey = KEY, context: bytes = CONTEXT) -> Reason:
    with pytest.raises(RefusedError) as caught:
        verify(message, key.public_key(), context)
    return caught.value.reason


@given(plain_values)
def test_plain_values_have_one_encoding(value):
    once = encode(value)
    assert encode(cbor2.loads(once)) == once


@given(st.binary(max_size=400) | tagged_values.map(cbor2.dumps) | plain_values.map(cbor2.dumps))
def test_hostile_bytes_are_refused_and_nothing_else(data):
    for take in (lambda: decode(data, Want), lambda: open_signed(data)):
        with suppress(RefusedError):
            take()
    assert reason_of(data) in {Reason.MALFORMED, Reason.UNSUPPORTED, Reason.BAD_SIGNATURE}


@pytest.mark.parametrize(
    "data",
    [
        b"\x81" * 100_000,  # nesting
        bytes.fromhex("9bffffffffffffffff"),  # an array of 2^64 items
        bytes.fromhex("5b7fffffffffffffff"),  # a string of 2^63 bytes
        bytes.fromhex("d81e820100"),  # 1/0
        bytes.fromhex("d81c81d81d00"),  # an array that holds itself
        cbor2.dumps(cbor2.CBORTag(4, [10**9, 1])),  # 10^1000000000
        cbor2.dumps(cbor2.CBORTag(35, "(" * 3000)),  # a regular expression
        cbor2.dumps(cbor2.CBORTag(2, b"\xff" * 200_000)),  # a number of 1.6 million bits
    ],
)
def test_what_would_exhaust_a_decoder_is_refused(data):
    for take in (lambda: decode(data, Want), lambda: open_signed(data)):
        with pytest.raises(RefusedError):
            take()


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("9f5820") + bytes(32) + b"\xff",  # indefinite length
        bytes.fromhex("815f5820") + bytes(32) + b"\xff",  # a string in pieces
        bytes.fromhex("81590020") + bytes(32),  # a length longer than needed
        bytes.fromhex("9801 5820") + bytes(32),
        bytes.fromhex("815820") + bytes(32) + b"\x00",  # something behind it
    ],
)
def test_another_encoding_of_the_same_value_is_refused(data):
    with pytest.raises(RefusedError) as caught:
        decode(data, Want)
    assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=200))
def test_what_was_signed_can_be_verified(body):
    message = sign(KEY, body, CONTEXT)
    assert verify(message, KEY.public_key(), CONTEXT) == body
    assert sign(KEY, body, CONTEXT) == message


def test_the_envelope_costs_75_bytes():
    assert len(sign(KEY, bytes(200), CONTEXT)) == 200 + 75


@pytest.mark.parametrize(
    "context",
    [
        context_of("other", "0" * 32, "want"),
        context_of("fleet", "1" * 32, "want"),
        context_of("fleet", "0" * 32, "ready"),
        context_of("fleet", "0" * 32 + "want", ""),
    ],
)
def test_a_message_of_another_fleet_sender_or_kind_does_not_verify(context):
    assert reason_of(sign(KEY, b"body", context)) is Reason.BAD_SIGNATURE


def test_another_key_does_not_verify():
    assert reason_of(sign(OTHER, b"body", CONTEXT)) is Reason.BAD_SIGNATURE


@given(st.data())
def test_no_changed_bit_goes_unnoticed(data):
    message = bytearray(sign(KEY, b"a body of some length", CONTEXT))
    where = data.draw(st.integers(0, 8 * len(message) - 1))
    message[where // 8] ^= 1 << where % 8
    assert reason_of(bytes(message)) in {Reason.MALFORMED, Reason.UNSUPPORTED, Reason.BAD_SIGNATURE}


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        ([b"\xa1\x01\x26", {}, b"body", bytes(64)], Reason.MALFORMED),  # no tag
        (cbor2.CBORTag(98, [b"\xa1\x01\x26", {}, b"body", bytes(64)]), Reason.MALFORMED),
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, b"body"]), Reason.MALFORMED),
        (cbor2.CBORTag(18, {}), Reason.MALFORMED),
        (cbor2.CBORTag(18, [b"\xa1\x01\x27", {}, b"body", bytes(64)]), Reason.UNSUPPORTED),  # EdDSA
        (cbor2.CBORTag(18, [b"", {}, b"body", bytes(64)]), Reason.UNSUPPORTED),  # no algorithm
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {4: b"key"}, b"body", bytes(64)]), Reason.UNSUPPORTED),
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, None, bytes(64)]), Reason.MALFORMED),  # detached
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, b"body", "text"]), Reason.MALFORMED),
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, b"body", bytes(63)]), Reason.BAD_SIGNATURE),
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, b"body", bytes(64)]), Reason.BAD_SIGNATURE),
        (cbor2.CBORTag(18, [b"\xa1\x01\x26", {}, b"body", b"\xff" * 64]), Reason.BAD_SIGNATURE),
    ],
)
def test_other_envelopes_are_refused_by_name(envelope, reason):
    assert reason_of(cbor2.dumps(envelope, canonical=True)) is reason


def test_an_envelope_has_one_form_because_its_hash_is_its_name():
    body, signature = open_signed(sign(KEY, b"body", CONTEXT))
    sloppy = bytes.fromhex("d8128443a10126a044") + body + bytes.fromhex("5840") + signature
    assert cbor2.loads(sloppy) == cbor2.loads(sign(KEY, b"body", CONTEXT))
    assert reason_of(sloppy) is Reason.MALFORMED


def test_a_message_above_the_bound_is_refused():
    assert reason_of(bytes(MAX_BODY_BYTES + 257)) is Reason.OVERSIZED
    body = bytes(MAX_BODY_BYTES)
    assert verify(sign(KEY, body, CONTEXT), KEY.public_key(), CONTEXT) == body


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 2**256 - 1)])
def test_signature_numbers_out_of_range_are_a_bad_signature(r, s):
    with pytest.raises(RefusedError) as caught:
        verify_raw(KEY.public_key(), r.to_bytes(32, "big") + s.to_bytes(32, "big"), b"statement")
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_raw_signature_is_64_bytes_whatever_its_numbers():
    for number in range(64):
        statement = number.to_bytes(2, "big")
        signature = sign_raw(KEY, statement)
        assert len(signature) == 64
        verify_raw(KEY.public_key(), signature, statement)
