"""Writes what an auditor needs of each finished round into the job's public folder, from what is already committed."""

from collections.abc import Callable
from pathlib import Path

from fedge_coordinator.aggregation.combine import aggregate_bytes
from fedge_coordinator.rounds.evidence import recompute_total
from fedge_coordinator.settlement import bundle
from fedge_coordinator.settlement.documents import EpochDocument, RoundRecord, decode_document, hex_bytes
from fedge_coordinator.settlement.findings import Evidence
from fedge_coordinator.store import Store
from fedge_coordinator.store.journal import RoundKey

VECTOR_PREFIX = "vector-"
BUCKET_PREFIX = "bucket-"


class Publisher:
    """Folders `root/JOB`; may be told of the same round again."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root = root
        self._store = store

    def folder(self, job: str) -> Path:
        """Where a job's records are."""
        return self._root / job

    def round_finished(self, key: RoundKey) -> RoundRecord | None:
        """Publish a finished round: record, weights, evidence. None when it has no record."""
        content = self._store.journal.record(key)
        if content is None:
            return None
        record = decode_document(RoundRecord, content)
        folder, blobs, body = self.folder(key.job), self._store.blobs, record.body
        if body.round == 1:
            bundle.write_weights(folder, 0, blobs.get(hex_bytes(body.model_before)))
        bundle.write_weights(folder, body.round, blobs.get(hex_bytes(body.model_after)))
        for name, digest in body.evidence.items():
            bundle.write_evidence(folder, body.round, name, blobs.get(hex_bytes(digest)))
        for participant in body.participants:
            digest = participant.update_hash
            bundle.write_evidence(folder, body.round, VECTOR_PREFIX + digest[2:], blobs.get(hex_bytes(digest)))
        bundle.write_record(folder, record)
        return record

    def epoch_settled(self, job: str, document: EpochDocument) -> None:
        """Publish an epoch's document."""
        bundle.write_epoch(self.folder(job), document)


def aggregate_recomputer(evidence: Evidence) -> Callable[[RoundRecord], bytes]:
    """For `audit`: sums a round's masked vectors again and removes the revealed masks."""

    def recompute(record: RoundRecord) -> bytes:
        number = record.body.round
        vectors = {
            bytes.fromhex(name.removeprefix(VECTOR_PREFIX)): content
            for (round_, name), content in evidence.files.items()
            if round_ == number and name.startswith(VECTOR_PREFIX)
        }
        totals = []
        for index in range(len(record.body.buckets)):
            _, total = recompute_total(evidence.files[number, f"{BUCKET_PREFIX}{index}"], vectors.__getitem__)
            totals.append(total)
        return aggregate_bytes(totals)

    return recompute
