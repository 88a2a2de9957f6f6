"""COSE_Sign1 over deterministic CBOR, ES256 (RFC 9052 section 4.2, RFC 8949 section 4.2.1, RFC 9053 section 2.1).

Every message names its fleet, its sender and its kind in the external additional data, so a body that was signed as one
thing can never be shown as another, and the body itself repeats none of it.
"""

from typing import Any, Final, TypeVar

import cbor2
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from fedge_protocol.errors import Reason, RefusedError

_TAG: Final = 18
_PROTECTED: Final = b"\xa1\x01\x26"  # {1: -7}: ES256
_ES256: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_ES256_VERIFY: Final = ec.ECDSA(hashes.SHA256())
_PARTS: Final = 4
_WORD: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_BODY_BYTES: Final = 256 * 1024

T = TypeVar("T", bound=msgspec.Struct)


def encode(value: object) -> bytes:
    """The one deterministic CBOR encoding of a struct or of plain values."""
    return cbor2.dumps(msgspec.to_builtins(value, builtin_types=(bytes,)), canonical=True)


def decode(data: bytes, kind: type[T], *, max_bytes: int = MAX_BODY_BYTES) -> T:
    """Decode hostile bytes into `kind`.

    Raises:
        RefusedError: `oversized`, or `malformed` when the bytes are no CBOR, not the deterministic encoding, or do not
            fit the type and its bounds.
    """
    if len(data) > max_bytes:
        raise RefusedError(Reason.OVERSIZED, f"{len(data)} bytes, at most {max_bytes}")
    plain = plain_of(data)
    try:
        value = msgspec.convert(plain, kind, strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(Reason.MALFORMED, str(error)) from None
    if encode(value) != data:
        raise RefusedError(Reason.MALFORMED, "not the deterministic encoding")
    return value


def decode_version(data: bytes, kind: type[T], version: int) -> T:
    """As `decode`, for a body that begins with the version of its form.

    Raises:
        RefusedError: `unsupported` when it is of another version; otherwise as `decode`.
    """
    try:
        return decode(data, kind)
    except RefusedError:
        match plain_of(data):
            case [int() as found, *_] if found != version:
                raise RefusedError(
                    Reason.UNSUPPORTED, f"{kind.__name__} of version {found}, {version} is spoken here"
                ) from None
        raise


def plain_of(data: bytes) -> Any:
    """Decode hostile CBOR into whatever it holds; `decode` is what gives it a type.

    Raises:
        RefusedError: `malformed`.
    """
    try:
        return cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise RefusedError(Reason.MALFORMED, type(error).__name__) from None


def context_of(fleet: str, sender: str, kind: str) -> bytes:
    """The external additional data: who says what kind of thing in which fleet."""
    return cbor2.dumps(["fedge/v1", fleet, sender, kind], canonical=True)


def sign_raw(key: ec.EllipticCurvePrivateKey, statement: bytes) -> bytes:
    """A 64-byte ES256 signature r || s over `statement`, deterministic (RFC 6979)."""
    r, s = decode_dss_signature(key.sign(statement, _ES256))
    return r.to_bytes(_WORD, "big") + s.to_bytes(_WORD, "big")


def verify_raw(key: ec.EllipticCurvePublicKey, signature: bytes, statement: bytes) -> None:
    """Check a 64-byte ES256 signature.

    Raises:
        RefusedError: `bad-signature`.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise RefusedError(Reason.BAD_SIGNATURE, f"{len(signature)} bytes")
    r, s = int.from_bytes(signature[:_WORD], "big"), int.from_bytes(signature[_WORD:], "big")
    try:
        key.verify(encode_dss_signature(r, s), statement, _ES256_VERIFY)
    except InvalidSignature:
        raise RefusedError(Reason.BAD_SIGNATURE) from None


def sign(key: ec.EllipticCurvePrivateKey, body: bytes, context: bytes) -> bytes:
    """A COSE_Sign1 message around `body`; `context` from `context_of`."""
    return _wrapped(body, sign_raw(key, _to_be_signed(body, context)))


def open_signed(message: bytes, *, max_bytes: int = MAX_BODY_BYTES + 256) -> tuple[bytes, bytes]:
    """Split a COSE_Sign1 message into body and signature, without checking the signature.

    Raises:
        RefusedError: `oversized`, `malformed` or `unsupported`.
    """
    if len(message) > max_bytes:
        raise RefusedError(Reason.OVERSIZED, f"{len(message)} bytes, at most {max_bytes}")
    plain = plain_of(message)
    if not isinstance(plain, cbor2.CBORTag) or plain.tag != _TAG:
        raise RefusedError(Reason.MALFORMED, "no COSE_Sign1")
    parts = plain.value
    if not isinstance(parts, list | tuple) or len(parts) != _PARTS:
        raise RefusedError(Reason.MALFORMED, "no COSE_Sign1")
    protected, unprotected, body, signature = parts
    if protected != _PROTECTED or unprotected != {}:
        raise RefusedError(Reason.UNSUPPORTED, "only ES256 without further headers")
    if not isinstance(body, bytes) or not isinstance(signature, bytes):
        raise RefusedError(Reason.MALFORMED, "body or signature is no byte string")
    if _wrapped(body, signature) != message:  # ACKs name a message by its hash, so it has one form only
        raise RefusedError(Reason.MALFORMED, "not the deterministic encoding")
    return body, signature


def verify(message: bytes, key: ec.EllipticCurvePublicKey, context: bytes) -> bytes:
    """The body of a COSE_Sign1 message whose signature holds.

    Raises:
        RefusedError: `oversized`, `malformed`, `unsupported` or `bad-signature`.
    """
    body, signature = open_signed(message)
    verify_raw(key, signature, _to_be_signed(body, context))
    return body


def _to_be_signed(body: bytes, context: bytes) -> bytes:
    return cbor2.dumps(["Signature1", _PROTECTED, context, body], canonical=True)


def _wrapped(body: bytes, signature: bytes) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(_TAG, [_PROTECTED, {}, body, signature]), canonical=True)
