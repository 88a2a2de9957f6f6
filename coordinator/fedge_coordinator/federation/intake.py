"""From bytes on a topic to a typed message of a known device, or a refusal with its reason."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from fedge_protocol import topics
from fedge_protocol.cose import context_of, decode, decode_version, verify
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    PRESENCE_KIND,
    Ack,
    Body,
    Condition,
    Masked,
    Prekeys,
    Presence,
    Ready,
    Refusal,
    Session,
    Shares,
    Survivor,
    Unmask,
    Up,
    Want,
)

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""The longest signed message of a device is SHARES in a bucket of 128: 33 KiB. More is not even decoded."""

_TYPES: Final[Mapping[str, type[Body]]] = {
    Up.PREKEYS: Prekeys,
    Up.READY: Ready,
    Up.SHARES: Shares,
    Up.MASKED: Masked,
    Up.SURVIVOR: Survivor,
    Up.UNMASK: Unmask,
    Up.WANT: Want,
    Up.REFUSAL: Refusal,
    Up.ACK: Ack,
    Up.SESSION: Session,
    Up.CONDITION: Condition,
}

_VERSIONED: Final = frozenset({Up.SESSION, Up.CONDITION})


@dataclass(frozen=True)
class Sender:
    """A member of the fleet, as the CA's log has it now."""

    device: str
    certificate: bytes
    public_key: ec.EllipticCurvePublicKey
    chain_address: bytes
    payout: bytes


class Membership(Protocol):
    """Who belongs to the fleet."""

    def sender(self, device: str) -> Sender:
        """The member of this name.

        Raises:
            RefusedError: `unknown-device` or `revoked`.
        """
        ...


@dataclass(frozen=True)
class Message:
    """A verified message. `encoded` is the body as it was signed; `sha256` that of the whole COSE message, for ACKs."""

    sender: Sender
    kind: str
    body: Body
    encoded: bytes
    sha256: bytes


@dataclass(frozen=True)
class Chunk:
    """A part of a blob that a signed manifest announces; its integrity is the manifest's."""

    device: str
    sha256: bytes
    index: int
    data: bytes


class Intake:
    """Opens what arrives under `device/+/up/` and `device/+/presence`."""

    def __init__(self, fleet: str, members: Membership) -> None:
        self._fleet = fleet
        self._members = members

    def open(self, topic: str, payload: bytes) -> Message | Chunk:
        """Decode and verify.

        Raises:
            RefusedError: with a named reason; nothing was changed.
        """
        place = topics.parse(topic)
        if place.fleet != self._fleet:
            raise RefusedError(Reason.WRONG_FLEET, place.fleet)
        match place:
            case topics.UpChunkTopic(_, device, sha256_hex, chunk):
                return Chunk(device, bytes.fromhex(sha256_hex), chunk, payload)
            case topics.UpTopic(_, device, kind) if kind in _TYPES:
                return self._message(device, kind, _TYPES[kind], payload)
            case topics.PresenceTopic(_, device):
                return self._message(device, PRESENCE_KIND, Presence, payload)
        raise RefusedError(Reason.WRONG_TOPIC, topic)

    def _message(self, device: str, kind: str, body_type: type[Body], payload: bytes) -> Message:
        if len(payload) > MAX_MESSAGE_BYTES:
            raise RefusedError(Reason.OVERSIZED, f"{len(payload)} bytes, at most {MAX_MESSAGE_BYTES}")
        sender = self._members.sender(device)
        encoded = verify(payload, sender.public_key, context_of(self._fleet, device, kind))
        body = decode_version(encoded, body_type, 1) if kind in _VERSIONED else decode(encoded, body_type)
        return Message(sender, kind, body, encoded, hashlib.sha256(payload).digest())
