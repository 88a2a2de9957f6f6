"""The fleet's membership: an append-only log, hash-chained, its head signed by the fleet's CA.

Whoever has seen a head can tell whether a later log extends it, so a CA that shows one coordinator or device another
fleet than the next is caught as soon as the two compare heads: two signed heads of one length and different hashes are
the proof. The chain is linear, not a tree: a follower reads every entry, some 900 bytes each, once.
"""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from fedge_protocol import cose
from fedge_protocol.errors import ProtocolError, RefusedError
from fedge_protocol.ids import Counter, DeviceId, Fleet, Hash32, Signature64

MAX_PAGE_ENTRIES: Final = 256
MAX_PAGE_BYTES: Final = 1024 * 1024
_MAX_CERTIFICATE_BYTES: Final = 2048
_ENTRY_CONTEXT: Final = b"fedge/v1/membership-entry\x00"
_GENESIS_CONTEXT: Final = b"fedge/v1/membership-genesis\x00"
_HEAD_CONTEXT: Final = b"fedge/v1/membership-head\x00"


class Change(StrEnum):
    """What an entry does to the membership of a device."""

    ADDED = "added"
    RENEWED = "renewed"
    REVOKED = "revoked"


class LogFault(StrEnum):
    """Why a log is not believed."""

    OTHER_FLEET = "other-fleet"
    BAD_SIGNATURE = "bad-signature"
    FORK = "fork"
    TRUNCATED = "truncated"
    GAP = "gap"
    BROKEN_CHAIN = "broken-chain"
    BAD_ENTRY = "bad-entry"


class LogRefusedError(ProtocolError):
    """A log does not extend what was seen before, or is not the CA's. Evidence: keep both heads."""

    def __init__(self, fault: LogFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One change. `seq` counts from 1; `time` is the CA's clock in Unix seconds.

    `certificate` is DER for `added` and `renewed` and empty for `revoked`; `replaces` names the former device id when a
    renewal came with a new key, otherwise it is empty; `previous` is the hash of the entry before, or of the genesis.
    """

    seq: Annotated[int, Meta(ge=1, le=2**53)]
    change: Change
    device_id: DeviceId
    certificate: Annotated[bytes, Meta(max_length=_MAX_CERTIFICATE_BYTES)]
    time: Counter
    replaces: Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
    previous: Hash32

    def hash(self) -> bytes:
        """The 32-byte hash by which the next entry, or the head, holds this one."""
        return hashlib.sha256(_ENTRY_CONTEXT + cose.encode(self)).digest()


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The CA's word that the first `seq` entries of its fleet's log end in `hash`. ES256 by the root key."""

    fleet: Fleet
    seq: Counter
    hash: Hash32
    signature: Signature64


class Page(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive entries and the signed head at the last of them."""

    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_PAGE_ENTRIES)]
    head: Head


def genesis_hash(fleet: str, ca_sha256: bytes) -> bytes:
    """What the first entry's `previous` is, and the hash of an empty log. `ca_sha256`: of the root's DER."""
    return hashlib.sha256(_GENESIS_CONTEXT + cose.encode([fleet, ca_sha256])).digest()


def sign_head(key: ec.EllipticCurvePrivateKey, fleet: str, seq: int, digest: bytes) -> Head:
    """The head of a log of `seq` entries; the same bytes whenever it is signed again."""
    return Head(fleet, seq, digest, cose.sign_raw(key, _head_statement(fleet, seq, digest)))


def verify_head(head: Head, *, key: ec.EllipticCurvePublicKey, fleet: str) -> None:
    """Check that the CA signed this head for this fleet.

    Raises:
        LogRefusedError: `other-fleet` or `bad-signature`.
    """
    if head.fleet != fleet:
        raise LogRefusedError(LogFault.OTHER_FLEET, f"a head of {head.fleet!r}, not of {fleet!r}")
    try:
        cose.verify_raw(key, head.signature, _head_statement(head.fleet, head.seq, head.hash))
    except RefusedError as error:
        raise LogRefusedError(LogFault.BAD_SIGNATURE, f"head {head.seq} is not signed by this fleet's CA") from error


def verify_extends(old: Head, entries: Sequence[Entry], new: Head) -> None:
    """Check that `entries` lead from the log that ends in `old` to the log that ends in `new`.

    Both heads must have passed `verify_head` (or `old` is the genesis, see `empty_log`). Appending nothing is an
    extension.

    Raises:
        LogRefusedError: `other-fleet`, `truncated` (the log became shorter), `fork` (same length, another hash), `gap`,
            `broken-chain` or `bad-entry`.
    """
    if old.fleet != new.fleet:
        raise LogRefusedError(LogFault.OTHER_FLEET, f"{old.fleet!r} became {new.fleet!r}")
    if new.seq < old.seq:
        raise LogRefusedError(LogFault.TRUNCATED, f"{old.seq} entries became {new.seq}")
    if new.seq == old.seq and new.hash != old.hash:
        raise LogRefusedError(LogFault.FORK, f"two logs of {old.seq} entries: {old.hash.hex()} and {new.hash.hex()}")
    seq, digest = old.seq, old.hash
    for entry in entries:
        seq += 1
        if entry.seq != seq:
            raise LogRefusedError(LogFault.GAP, f"entry {entry.seq} where {seq} comes next")
        if entry.previous != digest:
            raise LogRefusedError(LogFault.BROKEN_CHAIN, f"entry {seq} does not follow from {digest.hex()}")
        if (entry.change is Change.REVOKED) != (entry.certificate == b""):
            raise LogRefusedError(
                LogFault.BAD_ENTRY, f"entry {seq}: {entry.change} with {len(entry.certificate)} bytes"
            )
        digest = entry.hash()
    if (seq, digest) != (new.seq, new.hash):
        raise LogRefusedError(
            LogFault.BROKEN_CHAIN, f"{seq} entries end in {digest.hex()}, the head says {new.hash.hex()}"
        )


def empty_log(fleet: str, ca_sha256: bytes) -> Head:
    """The unsigned head from which a follower without memory starts."""
    return Head(fleet, 0, genesis_hash(fleet, ca_sha256), bytes(64))


def _head_statement(fleet: str, seq: int, digest: bytes) -> bytes:
    return _HEAD_CONTEXT + cose.encode([fleet, seq, digest])
