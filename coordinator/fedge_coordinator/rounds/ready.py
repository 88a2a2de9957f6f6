"""Phase 0: collect READY until the cohort is full, everybody present has answered, or the deadline passes."""

from collections.abc import Mapping

from fedge_coordinator.rounds.inputs import Entry
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import PROTOCOL_VERSION, Ready, Refusal

_KEYS = 2
"""One for masks, one for the channel."""


class ReadyPhase:
    """Who is ready, who refused."""

    name = "ready"

    def __init__(self, plan: RoundPlan) -> None:
        self._plan = plan
        self.deadline_ms = plan.offer.ready_deadline * 1000
        self._entries: dict[str, Entry] = {}
        self._keys: set[bytes] = set()
        self.refusals: dict[str, Refusal] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Accepted READY messages by device."""
        return self._entries

    @property
    def prekeys(self) -> tuple[tuple[str, int], ...]:
        """(device, prekey id) of every accepted READY, sorted: spent, however the round ends."""
        return tuple((name, entry.prekey.prekey_id) for name, entry in sorted(self._entries.items()))

    def accept(self, entry: Entry) -> None:
        """Take a device's first READY.

        Raises:
            RefusedError: `wrong-round`, `unsupported`, `bad-weight`, `cohort-full` or `used-prekey`.
        """
        ready, offer = entry.ready, self._plan.offer
        self._check_round(ready)
        if not ready.versions[0] <= PROTOCOL_VERSION <= ready.versions[1]:
            raise RefusedError(Reason.UNSUPPORTED, f"protocol versions {ready.versions}")
        if ready.weight > offer.training.weight_max:
            raise RefusedError(Reason.BAD_WEIGHT, f"{ready.weight}, at most {offer.training.weight_max}")
        if len(self._entries) >= offer.cohort.target:
            raise RefusedError(Reason.COHORT_FULL, f"{offer.cohort.target} devices")
        keys = {entry.prekey.mask_public, entry.prekey.channel_public}
        if len(keys) != _KEYS or keys & self._keys:
            # Every honest member would refuse the whole bucket for it.
            raise RefusedError(Reason.USED_PREKEY, f"prekey {ready.prekey_id} has a key that is in the cohort already")
        self._keys |= keys
        self._entries[entry.device] = entry

    def refuse(self, device: str, refusal: Refusal) -> bool:
        """A device says that it does not take part. False when it has spoken before: its first word stands.

        Raises:
            RefusedError: `wrong-round`.
        """
        self._check_round(refusal)
        if device in self._entries or device in self.refusals:
            return False
        self.refusals[device] = refusal
        return True

    def _check_round(self, body: Ready | Refusal) -> None:
        offer = self._plan.offer
        if (body.job, body.round, body.attempt) != (offer.job, offer.round, offer.attempt):
            raise RefusedError(Reason.WRONG_ROUND, f"{body.job} {body.round}.{body.attempt}")

    @property
    def full(self) -> bool:
        """The cohort has as many devices as it wants."""
        return len(self._entries) >= self._plan.offer.cohort.target

    @property
    def enough(self) -> bool:
        """The cohort has as many devices as it needs."""
        return len(self._entries) >= self._plan.offer.cohort.minimum
