import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.sealing import seal, unseal

PRIVATE = b"\x07" * 32
PUBLIC = X25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
]


def reason_of(private: bytes, sealed: bytes, context: bytes) -> Reason:
    with pytest.raises(RefusedError) as caught:
        unseal(private, sealed, context)
    return caught.value.reason


@given(st.binary(max_size=2000), st.binary(max_size=64))
def test_what_was_sealed_can_be_unsealed_and_costs_48_bytes(plain, context):
    sealed = seal(PUBLIC, plain, context)
    assert len(sealed) == len(plain) + 48
    assert unseal(PRIVATE, sealed, context) == plain


def test_sealing_twice_does_not_show_that_it_is_the_same():
    assert seal(PUBLIC, b"plain", b"context") != seal(PUBLIC, b"plain", b"context")


def test_the_top_bit_which_x25519_ignores_is_bound_all_the_same():
    sealed = bytearray(seal(PUBLIC, b"some shares", b"context"))
    sealed[31] ^= 0x80
    assert reason_of(PRIVATE, bytes(sealed), b"context") is Reason.MALFORMED


@given(st.data())
def test_what_was_altered_cannot_be_unsealed(data):
    sealed = bytearray(seal(PUBLIC, b"some shares", b"context"))
    where = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[where // 8] ^= 1 << where % 8
    assert reason_of(PRIVATE, bytes(sealed), b"context") is Reason.MALFORMED


def test_another_key_or_context_does_not_unseal():
    sealed = seal(PUBLIC, b"plain", b"context")
    assert reason_of(b"\x08" * 32, sealed, b"context") is Reason.MALFORMED
    assert reason_of(PRIVATE, sealed, b"another context") is Reason.MALFORMED


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_else(sealed):
    assert reason_of(PRIVATE, sealed, b"context") is Reason.MALFORMED


@pytest.mark.parametrize("public", [*LOW_ORDER, b"", bytes(31), bytes(33)])
def test_a_key_that_no_secret_can_be_agreed_with_is_refused(public):
    with pytest.raises(RefusedError) as caught:
        seal(public, b"plain", b"context")
    assert caught.value.reason is Reason.MALFORMED
