"""Why a worker refuses, as a closed list that the daemon can count and show."""

from enum import StrEnum


class Reason(StrEnum):
    """Cause of a refusal; the text is what travels and what `fedge-agent status` shows."""

    BAD_GRAPH = "bad-graph"
    BAD_WEIGHTS = "bad-weights"
    BAD_DATA = "bad-data"
    NO_DATA = "no-data"
    UNREADABLE = "unreadable"
    UNKNOWN_SOURCE = "unknown-source"
    DIVERGED = "diverged"
    BAD_REQUEST = "bad-request"
    BAD_OUTPUT = "bad-output"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    TIMEOUT = "timeout"


class TrainingError(Exception):
    """The worker could not do it; `reason` is from the closed list, `detail` names the value at fault."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
