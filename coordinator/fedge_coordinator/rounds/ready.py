"""Phase 0: collect READY until the cohort is full, everybody present has answered, or the deadline passes."""

from collections.abc import Mapping

from fedge_coordinator.rounds.inputs import Entry
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import PROTOCOL_VERSION, Refusal


class ReadyPhase:
    """Who is ready, who refused."""

    name = "ready"

    def __init__(self, plan: RoundPlan) -> None:
        self._plan = plan
        self.deadline_ms = plan.offer.ready_deadline * 1000
        self._entries: dict[str, Entry] = {}
        self.refusals: dict[str, Refusal] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Accepted READY messages by device."""
        return self._entries

    def accept(self, entry: Entry) -> None:
        """Take a device's first READY.

        Raises:
            RefusedError: `wrong-round`, `unsupported`, `bad-weight` or `cohort-full`.
        """
        ready, offer = entry.ready, self._plan.offer
        if (ready.job, ready.round, ready.attempt) != (offer.job, offer.round, offer.attempt):
            raise RefusedError(Reason.WRONG_ROUND, f"{ready.job} {ready.round}.{ready.attempt}")
        if not ready.versions[0] <= PROTOCOL_VERSION <= ready.versions[1]:
            raise RefusedError(Reason.UNSUPPORTED, f"protocol versions {ready.versions}")
        if ready.weight > offer.training.weight_max:
            raise RefusedError(Reason.BAD_WEIGHT, f"{ready.weight}, at most {offer.training.weight_max}")
        if len(self._entries) >= offer.cohort.target:
            raise RefusedError(Reason.COHORT_FULL, f"{offer.cohort.target} devices")
        self._entries[entry.device] = entry

    def refuse(self, device: str, refusal: Refusal) -> None:
        """A device says that it does not take part."""
        if device not in self._entries:
            self.refusals[device] = refusal

    @property
    def full(self) -> bool:
        """The cohort has as many devices as it wants."""
        return len(self._entries) >= self._plan.offer.cohort.target

    @property
    def enough(self) -> bool:
        """The cohort has as many devices as it needs."""
        return len(self._entries) >= self._plan.offer.cohort.minimum
