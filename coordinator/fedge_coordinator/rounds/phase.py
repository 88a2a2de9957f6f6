"""What the four phases of a bucket have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from fedge_coordinator.rounds.effects import BucketAborted, BucketSummed, Send
from fedge_coordinator.rounds.inputs import Input, Kind
from fedge_coordinator.rounds.seating import Seating


class Phase(ABC):
    """One exchange: what is sent, what is awaited, and until when."""

    awaits: ClassVar[Kind]

    def __init__(self, seating: Seating, now_ms: int) -> None:
        self.seating = seating
        self.deadline_ms = now_ms + seating.plan.offer.phase_seconds * 1000

    @property
    def name(self) -> str:
        """For status and metrics."""
        return str(self.awaits)

    @abstractmethod
    def accept(self, seat: int, entry: Input) -> None:
        """Take a seat's first answer; the machine has sorted out repetitions.

        Raises:
            RefusedError: with a named reason; nothing was changed.
        """

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Nothing more is needed."""

    @abstractmethod
    def outstanding(self) -> Iterable[Send]:
        """What has to be sent, as long as the answers are not in."""

    @abstractmethod
    def leave(self, now_ms: int) -> "Phase | BucketSummed | BucketAborted":
        """The next phase, or the end of the bucket; called when complete or past the deadline."""

    def aborted(self, reason: str) -> BucketAborted:
        """End the bucket."""
        return BucketAborted(devices=tuple(entry.device for entry in self.seating.entries), reason=reason)
