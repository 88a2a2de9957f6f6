"""What the committee has signed, once and for all: one genesis a job, one checkpoint a round, one root an epoch.

The rows are the committee's protection against its own equivocation: a slot that is taken is answered from the row, and
a second content for it is refused. Nothing that these methods return may leave the process before the commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, Row, insert, select

from fedge_coordinator.settlement.checkpoints import (
    build_checkpoint,
    checkpoint_fields,
    checkpoint_of,
    sign_as_committee,
)
from fedge_coordinator.settlement.documents import (
    CommitteeSignature,
    EpochDocument,
    RoundBody,
    RoundRecord,
    decode_document,
    encode_document,
    hex_bytes,
)
from fedge_coordinator.settlement.epochs import build_epoch, cumulative_of, reward_root
from fedge_coordinator.settlement.errors import DocumentError, EquivocationError, PoolExhaustedError, UnknownJobError
from fedge_coordinator.settlement.interface import Domains, JobTerms
from fedge_coordinator.settlement.signer import Signer
from fedge_coordinator.settlement.tables import checkpoints, epochs, jobs
from fedge_protocol.eip712 import Genesis, digest, job_id, struct_hash


@dataclass(frozen=True, slots=True)
class SignedEpoch:
    """An epoch's document and the committee's signatures of its reward root."""

    document: EpochDocument
    signatures: tuple[CommitteeSignature, ...]


class Book:
    """The committee's signing record. All methods work within the caller's transaction."""

    def __init__(self, committee: Sequence[Signer], domains: Domains) -> None:
        if not committee:
            raise ValueError("a committee has at least one member")
        self._committee = tuple(committee)
        self._domains = domains

    def open_job(self, connection: Connection, terms: JobTerms) -> bool:
        """Record a job; False when it is there already.

        Raises:
            EquivocationError: when it was opened with other hashes.
        """
        name = job_id(terms.fleet, terms.job)
        row = connection.execute(select(jobs).where(jobs.c.job_id == name)).one_or_none()
        if row is not None:
            if (row.spec_hash, row.genesis_model_hash) != (terms.spec_hash, terms.genesis_model_hash):
                raise EquivocationError(f"job {terms.fleet}/{terms.job} was opened with another specification or model")
            return False
        connection.execute(
            insert(jobs).values(
                job_id=name,
                fleet=terms.fleet,
                job=terms.job,
                spec_hash=terms.spec_hash,
                genesis_model_hash=terms.genesis_model_hash,
            )
        )
        return True

    def record_round(self, connection: Connection, body: RoundBody) -> tuple[RoundRecord, bool]:
        """Sign and store a round's checkpoint. Returns the record and whether it is new.

        Raises:
            UnknownJobError, EquivocationError, DocumentError: see `Settlement.publish_checkpoint`.
        """
        name = job_id(body.fleet, body.job)
        job = self._job(connection, name)
        stored = connection.execute(
            select(checkpoints.c.record).where(checkpoints.c.job_id == name, checkpoints.c.round == body.round)
        ).scalar_one_or_none()
        if stored is not None:
            record = decode_document(RoundRecord, stored)
            if record.body != body:
                raise EquivocationError(
                    f"round {body.round} of {body.fleet}/{body.job} was signed with another content"
                )
            return record, False
        last = connection.execute(
            select(checkpoints).where(checkpoints.c.job_id == name).order_by(checkpoints.c.round.desc()).limit(1)
        ).one_or_none()
        parent, model_before, expected = _predecessor(job, last)
        if body.round != expected:
            raise EquivocationError(f"round {body.round} of {body.fleet}/{body.job} is not the next one, {expected} is")
        _check_body(body, model_before)
        checkpoint = build_checkpoint(body, parent)
        record = RoundRecord(
            body=body,
            checkpoint=checkpoint_fields(checkpoint),
            signatures=sign_as_committee(self._committee, digest(self._domains.models, checkpoint)),
        )
        encoded = encode_document(record)
        decode_document(RoundRecord, encoded)  # what is published must be readable: bounds and form are checked here
        connection.execute(
            insert(checkpoints).values(job_id=name, round=body.round, head=struct_hash(checkpoint), record=encoded)
        )
        return record, True

    def record_epoch(self, connection: Connection, name: bytes, *, funded: int | None = None) -> SignedEpoch | None:
        """Sign and store the reward root of all rounds since the last epoch; None when they pay nothing new.

        Raises:
            UnknownJobError: when the job was not opened.
            PoolExhaustedError: when the total exceeds `funded` (None: the chain knows).
        """
        job = self._job(connection, name)
        last = connection.execute(
            select(epochs).where(epochs.c.job_id == name).order_by(epochs.c.epoch.desc()).limit(1)
        ).one_or_none()
        after_round, epoch = (0, 1) if last is None else (last.last_round, last.epoch + 1)
        previous = cumulative_of(None if last is None else decode_document(EpochDocument, last.document))
        records = [record for record in self.rounds(connection, name) if record.body.round > after_round]
        if not any(int(record.body.budget) for record in records):
            return None
        document = build_epoch(job.fleet, job.job, epoch, previous, records)
        if funded is not None and int(document.total) > funded:
            raise PoolExhaustedError(f"epoch {epoch} would promise {document.total} of {funded} funded units")
        signatures = sign_as_committee(self._committee, digest(self._domains.rewards, reward_root(document)))
        connection.execute(
            insert(epochs).values(
                job_id=name,
                epoch=epoch,
                last_round=records[-1].body.round,
                document=encode_document(document),
                signatures=msgspec.json.encode(signatures),
            )
        )
        return SignedEpoch(document, signatures)

    def rounds(self, connection: Connection, name: bytes) -> list[RoundRecord]:
        """Return a job's records, ascending by round."""
        rows = connection.execute(
            select(checkpoints.c.record).where(checkpoints.c.job_id == name).order_by(checkpoints.c.round)
        )
        return [decode_document(RoundRecord, row.record) for row in rows]

    def epoch(self, connection: Connection, name: bytes, epoch: int | None = None) -> SignedEpoch | None:
        """Return one epoch of a job, the last one by default, or None."""
        query = select(epochs).where(epochs.c.job_id == name).order_by(epochs.c.epoch.desc()).limit(1)
        if epoch is not None:
            query = query.where(epochs.c.epoch == epoch)
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        signatures = msgspec.json.decode(row.signatures, type=tuple[CommitteeSignature, ...])
        return SignedEpoch(decode_document(EpochDocument, row.document), signatures)

    def _job(self, connection: Connection, name: bytes) -> Row[tuple[object, ...]]:
        row = connection.execute(select(jobs).where(jobs.c.job_id == name)).one_or_none()
        if row is None:
            raise UnknownJobError(f"job 0x{name.hex()} was not opened")
        return row


def _predecessor(job: Row[tuple[object, ...]], last: Row[tuple[object, ...]] | None) -> tuple[bytes, bytes, int]:
    """Return the parent hash, the model hash and the number that the next round must have."""
    if last is None:
        return struct_hash(Genesis(job.job_id, job.spec_hash, job.genesis_model_hash)), job.genesis_model_hash, 1
    before = decode_document(RoundRecord, last.record)
    return struct_hash(checkpoint_of(before.checkpoint)), hex_bytes(before.checkpoint.model_hash), last.round + 1


def _check_body(body: RoundBody, model_before: bytes) -> None:
    if not any(participant.weight for participant in body.participants):
        raise DocumentError(f"round {body.round} has no participant with weight; there is nothing to publish")
    if hex_bytes(body.model_before) != model_before:
        raise DocumentError(
            f"round {body.round} starts from {body.model_before}, the last model is 0x{model_before.hex()}"
        )
    asked = set(body.cohort)
    for participant in body.participants:
        if participant.device not in asked:
            raise DocumentError(f"participant {participant.device} was not asked")
        if participant.bucket >= len(body.buckets):
            raise DocumentError(
                f"participant {participant.device} names bucket {participant.bucket}, which is not there"
            )
