"""Phase 1 (E1): every member seals its shares for every other."""

from collections.abc import Iterable

from fedge_coordinator.rounds.effects import BucketAborted, BucketSummed, Send
from fedge_coordinator.rounds.inputs import Input, Kind
from fedge_coordinator.rounds.masked import MaskedPhase
from fedge_coordinator.rounds.phase import Phase
from fedge_coordinator.rounds.seating import Seating
from fedge_protocol.cose import decode
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Down, Shares
from fedge_protocol.secagg.member import SEALED_BYTES


class SharesPhase(Phase):
    """Sends ROUND, collects SHARES. U1 is who answered."""

    awaits = Kind.SHARES

    def __init__(self, seating: Seating, now_ms: int) -> None:
        super().__init__(seating, now_ms)
        self._shares: dict[int, Shares] = {}

    def accept(self, seat: int, entry: Input) -> None:
        """See `Phase.accept`."""
        body = decode(entry.body, Shares)
        self.seating.check_context(body.context)
        if len(body.sealed) != self.seating.params.size - 1:
            raise RefusedError(Reason.MALFORMED, f"{len(body.sealed)} shares for {self.seating.params.size - 1} peers")
        if any(len(sealed) != SEALED_BYTES for sealed in body.sealed):
            raise RefusedError(Reason.BAD_SHARE, f"sealed shares have {SEALED_BYTES} bytes")
        self._shares[seat] = body

    @property
    def complete(self) -> bool:
        """Everybody answered."""
        return len(self._shares) == self.seating.params.size

    def outstanding(self) -> Iterable[Send]:
        """ROUND for whoever has not answered."""
        for seat, entry in enumerate(self.seating.entries):
            if seat not in self._shares:
                yield Send(entry.device, Down.ROUND, self.seating.body)

    def leave(self, now_ms: int) -> Phase | BucketSummed | BucketAborted:
        """On to the masked vectors, when enough shared."""
        if len(self._shares) < self.seating.params.threshold:
            return self.aborted("too-few-shares")
        return MaskedPhase(self.seating, now_ms, self._shares)
