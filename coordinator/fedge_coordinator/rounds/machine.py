"""One attempt at one round: READY, CLOSE, then each bucket through its phases.

Sans I/O and deterministic: `apply` folds journal entries, so a coordinator that was killed replays the journal and
stands where it stood. Time enters only with the entries.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from fedge_coordinator.rounds.effects import (
    BucketAborted,
    BucketSummed,
    BurnPrekeys,
    Effect,
    RoundAborted,
    RoundSummed,
    Send,
)
from fedge_coordinator.rounds.inputs import Entry, Input, Kind
from fedge_coordinator.rounds.phase import Phase
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_coordinator.rounds.ready import ReadyPhase
from fedge_coordinator.rounds.seating import Seating, seat
from fedge_coordinator.rounds.shares import SharesPhase
from fedge_protocol.cose import decode, encode
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Refusal


class Verdict(StrEnum):
    """What became of an input that was not refused. Only an accepted one belongs into the journal."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    NOT_NEEDED = "not-needed"


_ENOUGH_OF_SOME = frozenset({Kind.SURVIVOR, Kind.UNMASK})
"""Phases that end when a threshold of the answers is in; the others come late through no fault of theirs."""

Bucket = Phase | BucketSummed | BucketAborted


class RoundMachine:
    """The fold. `read_vector` gives the bytes of a stored masked vector by its SHA-256."""

    def __init__(self, plan: RoundPlan, read_vector: Callable[[bytes], bytes]) -> None:
        self.plan = plan
        self.ready = ReadyPhase(plan)
        self.ended: RoundSummed | RoundAborted | None = None
        self._read_vector = read_vector
        self._seatings: tuple[Seating, ...] = ()
        self._buckets: list[Bucket] = []
        self._seat_of: dict[str, tuple[int, int]] = {}
        self._accepted: dict[tuple[str, Kind], bytes] = {}
        self._effects: list[Effect] = []

    @property
    def closed(self) -> bool:
        """READY is over."""
        return bool(self._seatings) or self.ended is not None

    @property
    def phase(self) -> str:
        """The name of the slowest bucket's phase, for status and metrics."""
        if self.ended is not None:
            return "ended"
        if not self._seatings:
            return self.ready.name
        order = [Kind.SHARES, Kind.MASKED, Kind.SURVIVOR, Kind.UNMASK]
        waiting = [bucket.awaits for bucket in self._buckets if isinstance(bucket, Phase)]
        return str(min(waiting, key=order.index)) if waiting else "ended"

    @property
    def deadline_ms(self) -> int | None:
        """When a TICK has something to do, in Unix milliseconds."""
        if self.ended is not None:
            return None
        if not self._seatings:
            return self.ready.deadline_ms
        return min((bucket.deadline_ms for bucket in self._buckets if isinstance(bucket, Phase)), default=None)

    def speaks_of(self, context: bytes) -> bool:
        """Whether one of this round's buckets has this context."""
        return context in self.contexts

    @property
    def contexts(self) -> frozenset[bytes]:
        """What the messages of each bucket are bound to; none before the round is closed."""
        return frozenset(seating.context for seating in self._seatings)

    @property
    def seated(self) -> tuple[str, ...]:
        """Every device that has a seat."""
        return tuple(sorted(self._seat_of))

    def apply(self, entry: Input) -> tuple[Verdict, list[Effect]]:
        """Fold one input.

        Raises:
            RefusedError: the input changes nothing and must not be journalled.
        """
        self._effects = []
        verdict = Verdict.ACCEPTED
        match entry.kind:
            case Kind.READY:
                verdict = self._on_ready(entry)
            case Kind.REFUSAL:
                verdict = self._on_refusal(entry)
            case Kind.CLOSE:
                self._on_close(entry)
            case Kind.TICK:
                self._on_tick(entry)
            case Kind.RESUME:
                self._on_resume(entry)
            case _:
                verdict = self._on_answer(entry)
        return verdict, self._effects

    def outstanding(self) -> Iterable[Send]:
        """Everything that has been asked and not been answered; for the resends."""
        for bucket in self._buckets:
            if isinstance(bucket, Phase):
                yield from bucket.outstanding()

    def _repeated(self, device: str, kind: Kind, body: bytes) -> bool:
        known = self._accepted.get((device, kind))
        if known is None:
            return False
        if known != body:
            raise RefusedError(Reason.EQUIVOCATION, f"a second, different {kind}")
        return True

    def _on_ready(self, entry: Input) -> Verdict:
        body = decode(entry.body, Entry)
        message = encode(body.ready)
        if self._repeated(body.device, Kind.READY, message):
            return Verdict.REPEATED
        if self.closed:
            raise RefusedError(Reason.OUT_OF_PHASE, "the round is closed")
        self.ready.accept(body)
        self._accepted[body.device, Kind.READY] = message
        if self.ready.full:
            self._close(entry.at_ms)
        return Verdict.ACCEPTED

    def _on_refusal(self, entry: Input) -> Verdict:
        if self.closed:
            raise RefusedError(Reason.OUT_OF_PHASE, "the round is closed")
        is_new = self.ready.refuse(entry.device, decode(entry.body, Refusal))
        return Verdict.ACCEPTED if is_new else Verdict.REPEATED

    def _on_close(self, entry: Input) -> None:
        if self.closed or not self.ready.enough:
            raise RefusedError(Reason.OUT_OF_PHASE, "cannot close now")
        self._close(entry.at_ms)

    def _close(self, now_ms: int) -> None:
        self._seatings = seat(self.plan, self.ready.entries, self._read_vector)
        self._effects.append(BurnPrekeys(self.ready.prekeys))
        for number, seating in enumerate(self._seatings):
            for index, entry in enumerate(seating.entries):
                self._seat_of[entry.device] = (number, index)
            phase = SharesPhase(seating, now_ms)
            self._buckets.append(phase)
            self._effects.extend(phase.outstanding())

    def _on_answer(self, entry: Input) -> Verdict:
        if entry.device not in self._seat_of:
            reason = Reason.NOT_IN_COHORT if self.closed else Reason.OUT_OF_PHASE
            raise RefusedError(reason, f"{entry.kind} of a device without a seat")
        if self._repeated(entry.device, entry.kind, entry.body):
            return Verdict.REPEATED
        number, index = self._seat_of[entry.device]
        bucket = self._buckets[number]
        if not isinstance(bucket, Phase):
            if isinstance(bucket, BucketSummed) and entry.kind in _ENOUGH_OF_SOME:
                return Verdict.NOT_NEEDED
            raise RefusedError(Reason.OUT_OF_PHASE, "the bucket has ended")
        if bucket.awaits is not entry.kind:
            if entry.kind is Kind.SURVIVOR and bucket.awaits is Kind.UNMASK:
                return Verdict.NOT_NEEDED
            raise RefusedError(Reason.OUT_OF_PHASE, f"{entry.kind} while waiting for {bucket.awaits}")
        bucket.accept(index, entry)
        self._accepted[entry.device, entry.kind] = entry.body
        self._advance(number, entry.at_ms)
        return Verdict.ACCEPTED

    def _on_tick(self, entry: Input) -> None:
        if self.ended is not None:
            return
        if not self._seatings:
            if entry.at_ms >= self.ready.deadline_ms:
                if self.ready.enough:
                    self._close(entry.at_ms)
                else:
                    self._end(RoundAborted("too-few-ready", tuple(sorted(self.ready.entries))))
            return
        for number, bucket in enumerate(self._buckets):
            if isinstance(bucket, Phase) and entry.at_ms >= bucket.deadline_ms:
                self._leave(number, bucket, entry.at_ms)
        self._end_if_done()

    def _on_resume(self, entry: Input) -> None:
        """The coordinator was away: nobody is counted as late for that."""
        grace_ms = entry.at_ms + self.plan.offer.phase_seconds * 1000
        self.ready.deadline_ms = max(self.ready.deadline_ms, grace_ms)
        for bucket in self._buckets:
            if isinstance(bucket, Phase):
                bucket.deadline_ms = max(bucket.deadline_ms, grace_ms)

    def _advance(self, number: int, now_ms: int) -> None:
        bucket = self._buckets[number]
        if isinstance(bucket, Phase) and bucket.complete:
            self._leave(number, bucket, now_ms)
        self._end_if_done()

    def _leave(self, number: int, phase: Phase, now_ms: int) -> None:
        following = phase.leave(now_ms)
        self._buckets[number] = following
        if isinstance(following, Phase):
            self._effects.extend(following.outstanding())

    def _end_if_done(self) -> None:
        if self.ended is not None or any(isinstance(bucket, Phase) for bucket in self._buckets):
            return
        summed = tuple(bucket for bucket in self._buckets if isinstance(bucket, BucketSummed))
        aborted = tuple(bucket for bucket in self._buckets if isinstance(bucket, BucketAborted))
        if summed:
            cohort = tuple(sorted(entry.chain_address for entry in self.ready.entries.values()))
            self._end(RoundSummed(cohort, summed, aborted))
        else:
            self._end(RoundAborted(aborted[0].reason, self.seated))

    def _end(self, outcome: RoundSummed | RoundAborted) -> None:
        self.ended = outcome
        self._effects.append(outcome)
