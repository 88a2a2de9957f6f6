"""Enrolment over HTTPS, as both sides must agree on it: the token a person carries, the requests and the answers.

Bodies are JSON (bytes as base64), decoded into these structs and no further than `MAX_BODY_BYTES`; the membership log
alone is CBOR, because it is hashed. `docs/protocol.md` tells the order; nothing here touches a socket or a file.
"""

import base64
import binascii
import hashlib
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fedge_protocol import cose
from fedge_protocol.certificates import MAX_CERTIFICATE_BYTES, Address, Binding
from fedge_protocol.eip712 import digest
from fedge_protocol.errors import ProtocolError, Reason, RefusedError
from fedge_protocol.ids import Counter, DeviceId, Fleet, Hash32, Signature64
from fedge_protocol.membership import Head

TOKEN_PREFIX: Final = "fedge1."  # noqa: S105 - the public part of every token
MAX_TOKEN_CHARS: Final = 1024
MAX_BODY_BYTES: Final = 16 * 1024
MAX_CSR_BYTES: Final = 1024
SECRET_BYTES: Final = 16
PATH_CA: Final = "/v1/ca"
PATH_FLEET: Final = "/v1/fleet"
PATH_ENROL: Final = "/v1/enrol"
PATH_RENEW: Final = "/v1/renew"
PATH_LEAVE: Final = "/v1/leave"
PATH_MEMBERSHIP: Final = "/v1/membership"
PATH_CRL: Final = "/v1/crl"
_IDENTITY_CONTEXT: Final = b"fedge/v1/device-binding\x00"

Url = Annotated[str, Meta(pattern=r"^https://[A-Za-z0-9.:\[\]-]{1,253}\Z", max_length=261)]
BrokerUrl = Annotated[
    str,
    Meta(
        pattern=r"^(?:mqtts://[A-Za-z0-9.:\[\]-]{1,253}|wss://[A-Za-z0-9.:\[\]-]{1,253}(?:/[A-Za-z0-9._~/-]{0,127})?)\Z",
        max_length=388,
    ),
]
Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=32)]
Csr = Annotated[bytes, Meta(min_length=1, max_length=MAX_CSR_BYTES)]
Certificate = Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE_BYTES)]
PublicKey = Annotated[bytes, Meta(min_length=1, max_length=256)]


class EnrolmentReason(StrEnum):
    """Why the fleet's CA refuses; each has one HTTP status and one cure."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    TOO_MANY_REQUESTS = "too-many-requests"
    UNKNOWN_TOKEN = "unknown-token"  # noqa: S105 - a reason, no secret
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - a reason, no secret
    TOKEN_REVOKED = "token-revoked"  # noqa: S105 - a reason, no secret
    TOKEN_USED = "token-used"  # noqa: S105 - a reason, no secret
    BAD_CSR = "bad-csr"
    BAD_BINDING = "bad-binding"
    WRONG_CHAIN = "wrong-chain"
    CHAIN_ADDRESS_IN_USE = "chain-address-in-use"
    DEVICE_REVOKED = "device-revoked"
    UNKNOWN_DEVICE = "unknown-device"
    NO_CERTIFICATE = "no-certificate"
    NO_COORDINATOR = "no-coordinator"


class EnrolmentRefusedError(ProtocolError):
    """The CA refuses a request; nothing was changed by it.

    Args:
        reason: the name that goes into the answer and the log.
        detail: what was wrong, with the value at fault; no secret.
        cure: what a person can do about it.
    """

    def __init__(self, reason: EnrolmentReason, detail: str, cure: str) -> None:
        super().__init__(f"{reason}: {detail}; {cure}")
        self.reason = reason
        self.detail = detail
        self.cure = cure


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person carries to a device: where to enrol, in which fleet, whom to believe, and the right to do so."""

    url: Url
    fleet: Fleet
    ca_sha256: Hash32
    secret: Secret

    def text(self) -> str:
        """The token as one string: `fedge1.` and base64url of deterministic CBOR."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(cose.encode(self)).decode().rstrip("=")

    def secret_sha256(self) -> bytes:
        """What the CA stores instead of the secret."""
        return hashlib.sha256(self.secret).digest()

    def __repr__(self) -> str:
        return f"Token(url={self.url!r}, fleet={self.fleet!r}, secret=...)"


class BindingProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A chain address and an identity key bound to each other: both signed the same EIP-712 digest."""

    chain_address: Address
    binding: Binding
    identity_signature: Signature64


class EnrolRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/enrol`. The same secret and CSR always get the same certificate."""

    secret: Secret
    csr: Csr
    proof: BindingProof

    def __repr__(self) -> str:
        return "EnrolRequest(secret=...)"


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/renew`, over TLS with the present certificate. Another key makes another device id."""

    csr: Csr
    proof: BindingProof


class LeaveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/leave`, over TLS with the present certificate, which must be `device_id`'s. May be repeated."""

    device_id: DeviceId


class LeaveAnswer(msgspec.Struct, frozen=True):
    """The device is no member any more, and its certificates are revoked."""

    device_id: DeviceId


class FleetInfo(msgspec.Struct, frozen=True):
    """`GET /v1/fleet`: what a device must know to sign its binding. `time` is the CA's clock, Unix seconds."""

    fleet: Fleet
    chain_id: Counter
    registry: Address
    time: Counter


class EnrolAnswer(msgspec.Struct, frozen=True):
    """A certificate, and all that a device pins with it.

    `coordinator` is the certificate whose key signs the coordinator's messages; `job_signers` are the SPKIs (DER) whose
    jobs are trusted; `head` is the membership log's head at this answer.
    """

    certificate: Certificate
    ca: Certificate
    coordinator: Certificate
    broker_url: BrokerUrl
    chain_id: Counter
    registry: Address
    job_signers: Annotated[tuple[PublicKey, ...], Meta(max_length=16)]
    head: Head


class Refusal(msgspec.Struct, frozen=True):
    """The body of every answer but success. `reason` is an `EnrolmentReason`, or one this side does not know yet."""

    reason: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=512)]
    cure: Annotated[str, Meta(max_length=512)]
    kind: Literal["refusal"] = "refusal"


def parse_token(text: str) -> Token:
    """Decode what a person typed or pasted.

    Raises:
        RefusedError: `oversized` or `malformed`; the text itself, which holds a secret, is never shown.
    """
    text = text.strip()
    if len(text) > MAX_TOKEN_CHARS:
        raise RefusedError(Reason.OVERSIZED, f"a token has at most {MAX_TOKEN_CHARS} characters")
    if not text.startswith(TOKEN_PREFIX):
        raise RefusedError(Reason.MALFORMED, f"a token starts with {TOKEN_PREFIX!r}")
    body = text.removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(Reason.MALFORMED, "not base64url; was the token cut short?") from None
    token = cose.decode(data, Token, max_bytes=MAX_TOKEN_CHARS)
    if token.text() != text:
        raise RefusedError(Reason.MALFORMED, "not the one spelling of this token")
    return token


def identity_statement(device_hash: bytes, chain_address: bytes, binding: Binding) -> bytes:
    """The bytes that the identity key signs (ES256) to accept the binding: a context and the EIP-712 digest."""
    domain, statement = binding.statement(device_hash, chain_address)
    return _IDENTITY_CONTEXT + digest(domain, statement)
