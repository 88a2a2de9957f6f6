"""The states of jobs and rounds: shared by the store, the API and `fedgectl`, and free of what those import."""

from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """What applying a document did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


class RoundStatus(StrEnum):
    """Where a round attempt stands."""

    OPEN = "open"
    FINISHED = "finished"
    ABORTED = "aborted"
