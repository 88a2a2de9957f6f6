"""Jobs: the document in force, where the job stands, and what each round of it brought."""

from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from fedge_coordinator.states import JobStatus, Outcome
from fedge_coordinator.store.clock import ClockMs
from fedge_coordinator.store.database import Database
from fedge_coordinator.store.errors import JobStateError, ModelChangedError, NotFoundError
from fedge_coordinator.store.tables import jobs, progress
from fedge_protocol import jobspec

__all__ = ["FIRST_ROUND", "Job", "JobStatus", "Jobs", "Outcome", "Progress"]

FIRST_ROUND: Final = 1
"""The chain's first checkpoint is round 1."""


@dataclass(frozen=True)
class Job:
    """A job. `graph` and `weights` are blob hashes (32 bytes), None until the job has started."""

    name: str
    document: jobspec.TrainingJob
    spec_hash: bytes
    status: JobStatus
    reason: str
    next_round: int
    graph: bytes | None
    weights: bytes | None
    created_at_ms: int
    updated_at_ms: int

    @property
    def started(self) -> bool:
        """Whether the job has a graph, and so a model that it must keep."""
        return self.graph is not None


@dataclass(frozen=True)
class Progress:
    """What one finished round brought.

    `metrics` are finite numbers by name, such as accuracy and loss. `checkpoint` and `tx_hash` say where it was
    settled. `weights`, the blob hash of the model it made (the chain's modelHash), is there when read back.
    """

    job: str
    round: int
    attempt: int
    finished_at_ms: int
    participants: int
    dropouts: int
    bytes_up: int
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: bytes | None = None
    tx_hash: bytes | None = None
    weights: bytes | None = None


_CANCELLABLE: Final = frozenset({JobStatus.PENDING, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED})
_MAY_BECOME: Final = {
    JobStatus.PENDING: frozenset({JobStatus.PENDING, JobStatus.RUNNING}),
    JobStatus.RUNNING: frozenset({JobStatus.PENDING, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED}),
    JobStatus.PAUSED: frozenset({JobStatus.PENDING, JobStatus.RUNNING, JobStatus.PAUSED}),
    JobStatus.FINISHED: frozenset({JobStatus.RUNNING, JobStatus.FINISHED}),
    JobStatus.FAILED: frozenset({JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.CANCELLED: _CANCELLABLE | {JobStatus.CANCELLED},
}
"""For each status, the statuses it may follow. Resuming is PAUSED or FAILED to RUNNING."""


class Jobs:
    """Every call that returns has reached the disk."""

    def __init__(self, database: Database, clock_ms: ClockMs) -> None:
        self._database = database
        self._clock_ms = clock_ms

    def apply(self, document: jobspec.TrainingJob) -> tuple[Outcome, Job]:
        """Put a document in force. A finished job that now wants more rounds is pending again.

        Raises:
            ModelChangedError: the job has started, and the document has another model.
            JobStateError: the job was cancelled.
        """
        name = document.metadata.name
        content, spec_hash, now_ms = jobspec.canonical(document), jobspec.spec_hash(document), self._clock_ms()
        with self._database.transaction() as connection:
            row = _row(connection, name)
            if row is None:
                connection.execute(
                    insert(jobs).values(
                        name=name,
                        document=content,
                        spec_hash=spec_hash,
                        status=JobStatus.PENDING,
                        reason="",
                        next_round=FIRST_ROUND,
                        created_at_ms=now_ms,
                        updated_at_ms=now_ms,
                    )
                )
                return Outcome.CREATED, self.get(name)
            present = _job(row)
            if present.spec_hash == spec_hash:
                return Outcome.UNCHANGED, present
            _refuse_change(present, document)
            again = present.status is JobStatus.FINISHED and present.next_round <= document.spec.rollout.rounds
            status = JobStatus.PENDING if again else present.status
            connection.execute(
                update(jobs)
                .where(jobs.c.name == name)
                .values(document=content, spec_hash=spec_hash, status=status, updated_at_ms=now_ms)
            )
            return Outcome.UPDATED, self.get(name)

    def preview(self, document: jobspec.TrainingJob) -> Outcome:
        """What `apply` would do, or the error it would raise; nothing is changed."""
        present = self.find(document.metadata.name)
        if present is None:
            return Outcome.CREATED
        if present.spec_hash == jobspec.spec_hash(document):
            return Outcome.UNCHANGED
        _refuse_change(present, document)
        return Outcome.UPDATED

    def get(self, name: str) -> Job:
        """One job.

        Raises:
            NotFoundError: no job of that name.
        """
        job = self.find(name)
        if job is None:
            raise NotFoundError(f"no job named {name!r}")
        return job

    def find(self, name: str) -> Job | None:
        """One job, or None."""
        with self._database.transaction() as connection:
            row = _row(connection, name)
            return None if row is None else _job(row)

    def all(self) -> list[Job]:
        """All jobs by name."""
        with self._database.transaction() as connection:
            return [_job(row) for row in connection.execute(select(jobs).order_by(jobs.c.name))]

    def set_status(self, name: str, status: JobStatus, reason: str = "") -> Job:
        """Move a job to another status, with the reason that operators are shown.

        Raises:
            NotFoundError: no job of that name.
            JobStateError: the present status does not lead there.
        """
        with self._database.transaction() as connection:
            present = self.get(name)
            if present.status not in _MAY_BECOME[status]:
                raise JobStateError(f"job {name!r} is {present.status} and cannot become {status}")
            self._set(connection, name, status=status, reason=reason)
            return self.get(name)

    def start(self, name: str, graph: bytes, weights: bytes) -> Job:
        """Give a job its graph and its first weights (blob hashes); it is running from now on.

        Raises:
            NotFoundError: no job of that name.
            JobStateError: it has a graph already, or its status does not lead to running.
        """
        with self._database.transaction() as connection:
            present = self.get(name)
            if present.started:
                raise JobStateError(f"job {name!r} has started already")
            self._set(connection, name, graph=graph, weights=weights)
            return self.set_status(name, JobStatus.RUNNING)

    def advance(self, entry: Progress, weights: bytes) -> Job:
        """Record a finished round, make its weights current and count on. The same round twice changes nothing.

        Raises:
            NotFoundError: no job of that name.
            JobStateError: it is not this round's turn.
        """
        with self._database.transaction() as connection:
            present = self.get(entry.job)
            if entry.round == present.next_round - 1 and present.weights == weights:
                return present
            if entry.round != present.next_round:
                raise JobStateError(f"job {entry.job!r} awaits round {present.next_round}, not {entry.round}")
            connection.execute(
                insert(progress).values(
                    job=entry.job,
                    round=entry.round,
                    attempt=entry.attempt,
                    finished_at_ms=entry.finished_at_ms,
                    participants=entry.participants,
                    dropouts=entry.dropouts,
                    metrics=msgspec.json.encode(entry.metrics, order="sorted").decode(),
                    bytes_up=entry.bytes_up,
                    weights=weights,
                    checkpoint=entry.checkpoint,
                    tx_hash=entry.tx_hash,
                )
            )
            self._set(connection, entry.job, weights=weights, next_round=entry.round + 1)
            return self.get(entry.job)

    def set_metrics(self, name: str, round_number: int, metrics: dict[str, float]) -> None:
        """Add numbers to a finished round, such as an evaluation that came later; same names are replaced."""
        with self._database.transaction() as connection:
            present = self._progress_row(connection, name, round_number)
            merged = msgspec.json.decode(present.metrics, type=dict[str, float]) | metrics
            self._set_progress(connection, name, round_number, msgspec.json.encode(merged, order="sorted").decode())

    def set_settlement(
        self, name: str, round_number: int, *, checkpoint: bytes | None = None, tx_hash: bytes | None = None
    ) -> None:
        """Note where a finished round was settled; None leaves what is there."""
        given = {"checkpoint": checkpoint, "tx_hash": tx_hash}
        values = {column: value for column, value in given.items() if value is not None}
        with self._database.transaction() as connection:
            self._progress_row(connection, name, round_number)
            if values:
                connection.execute(
                    update(progress).where(progress.c.job == name, progress.c.round == round_number).values(**values)
                )

    def progress(self, name: str, *, last: int | None = None) -> list[Progress]:
        """The finished rounds of a job, oldest first; only the `last` so many if given."""
        statement = select(progress).where(progress.c.job == name).order_by(progress.c.round.desc()).limit(last)
        with self._database.transaction() as connection:
            return [_progress(row) for row in connection.execute(statement)][::-1]

    def counts(self) -> dict[JobStatus, int]:
        """How many jobs there are in each status."""
        with self._database.transaction() as connection:
            found = connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status)).all()
        return dict.fromkeys(JobStatus, 0) | {JobStatus(status): count for status, count in found}

    def _set(self, connection: Connection, name: str, **values: str | int | bytes) -> None:
        connection.execute(update(jobs).where(jobs.c.name == name).values(updated_at_ms=self._clock_ms(), **values))

    def _set_progress(self, connection: Connection, name: str, round_number: int, metrics: str) -> None:
        connection.execute(
            update(progress).where(progress.c.job == name, progress.c.round == round_number).values(metrics=metrics)
        )

    def _progress_row(self, connection: Connection, name: str, round_number: int) -> Row[tuple[object, ...]]:
        row = connection.execute(
            select(progress).where(progress.c.job == name, progress.c.round == round_number)
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"job {name!r} has no finished round {round_number}")
        return row


def _refuse_change(present: Job, document: jobspec.TrainingJob) -> None:
    if present.status is JobStatus.CANCELLED:
        raise JobStateError(f"job {present.name!r} was cancelled; apply the document under another name")
    if present.started and jobspec.model_section(present.document) != jobspec.model_section(document):
        raise ModelChangedError(
            f"job {present.name!r} has started and keeps its model; "
            "restore the old spec.model, or apply the new one under another name"
        )


def _row(connection: Connection, name: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(jobs).where(jobs.c.name == name)).one_or_none()


def _job(row: Row[tuple[object, ...]]) -> Job:
    return Job(
        name=row.name,
        document=msgspec.json.decode(row.document, type=jobspec.TrainingJob),
        spec_hash=row.spec_hash,
        status=JobStatus(row.status),
        reason=row.reason,
        next_round=row.next_round,
        graph=row.graph,
        weights=row.weights,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
    )


def _progress(row: Row[tuple[object, ...]]) -> Progress:
    return Progress(
        job=row.job,
        round=row.round,
        attempt=row.attempt,
        finished_at_ms=row.finished_at_ms,
        participants=row.participants,
        dropouts=row.dropouts,
        bytes_up=row.bytes_up,
        weights=row.weights,
        metrics=msgspec.json.decode(row.metrics, type=dict[str, float]),
        checkpoint=row.checkpoint,
        tx_hash=row.tx_hash,
    )
