"""Forgets what finished rounds leave behind and nobody needs any more: masked vectors, journals, the keys of rounds.

What an auditor needs is in the job's public folder before anything here goes; that folder is left alone.
"""

from dataclasses import dataclass

from fedge_coordinator.rounds.inputs import Kind
from fedge_coordinator.settlement.documents import RoundRecord, decode_document, hex_bytes
from fedge_coordinator.store import Store
from fedge_coordinator.store.jobs import Job
from fedge_coordinator.store.journal import RoundStatus, RoundSummary
from fedge_protocol.cose import decode
from fedge_protocol.messages import Masked


@dataclass(frozen=True)
class Swept:
    """How many blobs and journal entries went."""

    blobs: int = 0
    entries: int = 0


class Retention:
    """Keeps the last `rounds` rounds of each job, and every one whose record is not published yet.

    At least one, because a coordinator that starts tells once more how the last round ended.
    """

    def __init__(self, store: Store, rounds: int) -> None:
        if rounds < 1:
            raise ValueError(f"{rounds} rounds to keep; at least 1")
        self._store = store
        self._rounds = rounds
        self._swept: dict[str, int] = {}

    def sweep(self, job: Job) -> Swept:
        """Forget what may go. Blocking. The entries, which name the files, go last: so a killed sweep is done again."""
        before = self._first_kept(job)
        if before <= self._swept.get(job.name, 0):
            return Swept()
        blobs = 0
        for summary in self._store.journal.rounds(job.name):
            if summary.key.round < before and summary.status is not RoundStatus.OPEN and summary.entries:
                blobs += sum(self._store.blobs.remove(digest) for digest in sorted(self._left_by(summary)))
        entries = self._store.journal.prune(job.name, before)
        self._swept[job.name] = before
        return Swept(blobs, entries)

    def _first_kept(self, job: Job) -> int:
        unpublished = [row.round for row in self._store.jobs.progress(job.name) if row.checkpoint is None]
        return min([job.next_round - self._rounds, *unpublished])

    def _left_by(self, attempt: RoundSummary) -> set[bytes]:
        """The vectors that an attempt took, whether or not it succeeded, and the evidence that its record names."""
        journal = self._store.journal
        found = {
            decode(entry.body, Masked).vector.sha256
            for entry in journal.entries(attempt.key)
            if entry.kind == Kind.MASKED
        }
        record = journal.record(attempt.key) if attempt.status is RoundStatus.FINISHED else None
        if record is not None:
            found |= {hex_bytes(digest) for digest in decode_document(RoundRecord, record).body.evidence.values()}
        return found
