"""The local ledger's lines: each holds one signed statement and the hash of the line before it.

A line is canonical JSON. Whoever kept the hash of any line can tell whether what came before was altered; that lines
were cut off the end is noticed only by one who kept a later hash, so publish the head now and then.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count

import msgspec

from fedge_coordinator.settlement.documents import (
    Address,
    Amount,
    CheckpointFields,
    CommitteeSignature,
    Count,
    FleetName,
    Hash,
    JobName,
    Signature,
    decode_document,
    encode_document,
    hex_bytes,
    hex_text,
)
from fedge_coordinator.settlement.errors import DocumentError, LedgerCorruptError
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.signer import Signer
from fedge_protocol.secp256k1 import SignatureError

GENESIS = bytes(32)


class DeviceRegistered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="device"):
    """A device consented to its binding; `signature` is the device's."""

    device: Address
    device_id: Hash
    payout: Address
    nonce: Hash
    not_after: Count
    signature: Signature


class JobOpened(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="job"):
    """A job's genesis."""

    job_id: Hash
    fleet: FleetName
    job: JobName
    spec_hash: Hash
    genesis_model_hash: Hash


class PoolFunded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="funds"):
    """A sponsor's promise of token units to a job."""

    job_id: Hash
    amount: Amount


class CheckpointPublished(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="checkpoint"):
    """A round's checkpoint and the committee's signatures."""

    checkpoint: CheckpointFields
    signatures: tuple[CommitteeSignature, ...]


class RootProposed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="reward-root"):
    """An epoch's reward root and the committee's signatures."""

    job_id: Hash
    epoch: Count
    root: Hash
    total: Amount
    data_hash: Hash
    signatures: tuple[CommitteeSignature, ...]


class Paid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="payout"):
    """What an account was credited with, and its total afterwards."""

    job_id: Hash
    account: Address
    recipient: Address
    amount: Amount
    cumulative: Amount


Statement = DeviceRegistered | JobOpened | PoolFunded | CheckpointPublished | RootProposed | Paid


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement in its place."""

    sequence: Count
    previous: Hash
    statement: Statement


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry signed by a committee member over the SHA-256 of its canonical JSON."""

    entry: Entry
    signature: CommitteeSignature


def line_hash(line: bytes) -> bytes:
    """Return what the next line names as `previous`."""
    return hashlib.sha256(line).digest()


def write_line(sequence: int, previous: bytes, statement: Statement, signer: Signer) -> bytes:
    """Return the bytes of the next line.

    Raises:
        DocumentError: when a field of the statement is out of its bounds.
    """
    entry = Entry(sequence, hex_text(previous), statement)
    signature = signer.sign_digest(hashlib.sha256(encode_document(entry)).digest())
    line = encode_document(Line(entry, CommitteeSignature(hex_text(signer.address), hex_text(signature))))
    decode_document(Line, line)
    return line


def read_lines(
    lines: Iterable[bytes], members: frozenset[bytes], *, first: int = 0, previous: bytes = GENESIS
) -> Iterator[Statement]:
    """Yield the statements of an unbroken ledger whose every line a committee member signed.

    `lines` begin with number `first`, which follows the line whose hash is `previous`.

    Raises:
        LedgerCorruptError: at the first line that does not follow, is not canonical, or is not signed.
    """
    for expected, content in zip(count(first), lines, strict=False):
        try:
            line = decode_document(Line, content)
        except DocumentError as error:
            raise LedgerCorruptError(f"ledger line {expected}: {error}") from None
        if line.entry.sequence != expected or hex_bytes(line.entry.previous) != previous:
            raise LedgerCorruptError(f"ledger line {expected} does not follow the line before it")
        try:
            signed = hashlib.sha256(encode_document(line.entry)).digest()
            signer = recover_signer(signed, hex_bytes(line.signature.signature))
        except SignatureError as error:
            raise LedgerCorruptError(f"ledger line {expected}: {error}") from None
        if signer not in members or signer != hex_bytes(line.signature.signer):
            raise LedgerCorruptError(f"ledger line {expected} is not signed by a committee member")
        previous = line_hash(content)
        yield line.entry.statement
