"""RESULT for every device of a finished round, until it is acknowledged or the device has had its chances."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedge_coordinator.federation.post import Post
from fedge_coordinator.rounds.effects import RoundSummed
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_protocol.messages import BlobRef, Down, Result

_FIRST_MS: Final = 1500
_TRIES: Final = 5
_LATER_MS: Final = 15_000


@dataclass
class _Waiting:
    body: Result
    tries: int
    due_ms: int
    sha256: bytes = b""


class Results:
    """What was announced and not acknowledged yet. A device that misses it learns of the outcome by the next offer."""

    def __init__(self, post: Post, clock_ms: Callable[[], int]) -> None:
        self._post = post
        self._clock_ms = clock_ms
        self._waiting: dict[str, _Waiting] = {}

    @property
    def waiting(self) -> bool:
        """Whether anybody is still to be told."""
        return any(entry.tries < _TRIES for entry in self._waiting.values())

    def announce(self, plan: RoundPlan, outcome: RoundSummed, weights: BlobRef) -> None:
        """Tell every seated device how the round ended for it."""
        offer = plan.offer
        included = {c.entry.device for bucket in outcome.buckets for c in bucket.contributions}
        left_out = {device for bucket in outcome.buckets for device in bucket.dropped}
        left_out |= {device for bucket in outcome.aborted for device in bucket.devices}
        bodies = {
            flag: Result(
                job=offer.job,
                round=offer.round,
                attempt=offer.attempt,
                included=flag,
                weights=weights,
                participants=len(included),
            )
            for flag in (True, False)
        }
        now_ms = self._clock_ms()
        self._waiting |= {device: _Waiting(bodies[device in included], 0, now_ms) for device in included | left_out}
        self.resend(now_ms)

    def acknowledged(self, device: str, sha256: bytes) -> None:
        """This device has the message of this hash; one of an earlier round is none of ours any more."""
        entry = self._waiting.get(device)
        if entry is not None and entry.sha256 == sha256:
            del self._waiting[device]

    def again(self, device: str) -> None:
        """This device was away and is back: it has all its chances anew."""
        entry = self._waiting.get(device)
        if entry is not None:
            entry.tries, entry.due_ms = 0, self._clock_ms()

    def resend(self, now_ms: int) -> int:
        """Send what is due; returns when to call again, in Unix milliseconds."""
        next_ms = now_ms + _LATER_MS
        for device, entry in self._waiting.items():
            if entry.tries >= _TRIES:
                continue
            if entry.due_ms <= now_ms:
                entry.sha256 = self._post.send(device, Down.RESULT, entry.body)
                entry.due_ms = now_ms + _FIRST_MS * 2**entry.tries
                entry.tries += 1
            next_ms = min(next_ms, entry.due_ms)
        return next_ms
