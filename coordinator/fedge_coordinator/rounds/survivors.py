"""Phase 3 (E3): the survivors agree, by signature, on one set of vectors."""

from collections.abc import Iterable, Mapping

from fedge_coordinator.rounds.effects import BucketAborted, BucketSummed, Send
from fedge_coordinator.rounds.inputs import Input, Kind
from fedge_coordinator.rounds.phase import Phase
from fedge_coordinator.rounds.seating import Seating
from fedge_coordinator.rounds.unmask import UnmaskPhase
from fedge_protocol.cose import decode, verify_raw
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Down, Masked, Shares, SignedBy, Survivor, Survivors, survivors_statement


class SurvivorsPhase(Phase):
    """Sends SURVIVORS to U2, collects signatures; `threshold` of them are enough."""

    awaits = Kind.SURVIVOR

    def __init__(
        self, seating: Seating, now_ms: int, shares: Mapping[int, Shares], masked: Mapping[int, Masked]
    ) -> None:
        super().__init__(seating, now_ms)
        self._shares, self._masked = shares, masked
        seats = tuple(sorted(masked))
        self._question = Survivors(
            context=seating.context, survivors=seats, vectors=tuple(masked[s].vector.sha256 for s in seats)
        )
        self._signatures: dict[int, bytes] = {}

    def accept(self, seat: int, entry: Input) -> None:
        """See `Phase.accept`."""
        body = decode(entry.body, Survivor)
        self.seating.check_context(body.context)
        if seat not in self._masked:
            raise RefusedError(Reason.OUT_OF_PHASE, "a signature without a vector")
        statement = survivors_statement(self.seating.context, self._question.survivors, self._question.vectors)
        verify_raw(self.seating.key_of(seat), body.signature, statement)
        self._signatures[seat] = body.signature

    @property
    def complete(self) -> bool:
        """Enough signatures to ask for unmasking; a member that died here is not waited for."""
        return len(self._signatures) >= self.seating.params.threshold

    def outstanding(self) -> Iterable[Send]:
        """SURVIVORS for whoever has not signed."""
        for seat in self._question.survivors:
            if seat not in self._signatures:
                yield Send(self.seating.entries[seat].device, Down.SURVIVORS, self._question)

    def leave(self, now_ms: int) -> Phase | BucketSummed | BucketAborted:
        """On to unmasking, when enough signed."""
        if not self.complete:
            return self.aborted("too-few-signatures")
        signatures = tuple(SignedBy(seat=s, signature=self._signatures[s]) for s in sorted(self._signatures))
        return UnmaskPhase(self.seating, now_ms, self._shares, self._masked, self._question, signatures)
