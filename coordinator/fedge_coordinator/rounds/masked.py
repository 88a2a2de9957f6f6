"""Phase 2 (E2): whoever shared uploads its masked vector."""

from collections.abc import Iterable, Mapping

from fedge_coordinator.rounds.effects import BucketAborted, BucketSummed, Send
from fedge_coordinator.rounds.inputs import Input, Kind
from fedge_coordinator.rounds.phase import Phase
from fedge_coordinator.rounds.seating import Seating
from fedge_coordinator.rounds.survivors import SurvivorsPhase
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_protocol.cose import decode
from fedge_protocol.eip712 import Domain, Receipt
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Down, Inbound, Masked, Shares
from fedge_protocol.receipts import verify_receipt
from fedge_protocol.secagg.padding import masked_bytes


class MaskedPhase(Phase):
    """Sends INBOUND to U1, collects MASKED. U2 is whose whole vector arrived."""

    awaits = Kind.MASKED

    def __init__(self, seating: Seating, now_ms: int, shares: Mapping[int, Shares]) -> None:
        super().__init__(seating, now_ms)
        self._shares = shares
        self._masked: dict[int, Masked] = {}

    def accept(self, seat: int, entry: Input) -> None:
        """See `Phase.accept`. The driver has the vector's bytes on disk before it passes the manifest on."""
        body = decode(entry.body, Masked)
        self.seating.check_context(body.context)
        if seat not in self._shares:
            raise RefusedError(Reason.OUT_OF_PHASE, "MASKED without SHARES")
        offer = self.seating.plan.offer
        expected = masked_bytes(offer.dim)
        if body.vector.size != expected:
            raise RefusedError(Reason.BAD_UPDATE, f"{body.vector.size} bytes, {expected} expected")
        receipt = Receipt(
            job_id=offer.job_id,
            round=offer.round,
            attempt=offer.attempt,
            bucket_root=body.context,
            update_hash=body.vector.sha256,
        )
        domain = Domain(offer.chain_id, offer.registry)
        signer = self.seating.entries[seat].chain_address
        if not verify_receipt(domain, receipt, body.receipt, signer, recover=recover_signer):
            raise RefusedError(Reason.BAD_RECEIPT, "the receipt is not signed by the device's chain key")
        self._masked[seat] = body

    @property
    def complete(self) -> bool:
        """Every sharer's vector is here."""
        return len(self._masked) == len(self._shares)

    def outstanding(self) -> Iterable[Send]:
        """INBOUND for every sharer whose vector is not here."""
        sharers = tuple(sorted(self._shares))
        for seat in sharers:
            if seat in self._masked:
                continue
            sealed = tuple(self._shares[peer].sealed[seat - (seat > peer)] for peer in sharers if peer != seat)
            body = Inbound(context=self.seating.context, sharers=sharers, sealed=sealed)
            yield Send(self.seating.entries[seat].device, Down.INBOUND, body)

    def leave(self, now_ms: int) -> Phase | BucketSummed | BucketAborted:
        """On to the survivors' signatures, when enough uploaded."""
        if len(self._masked) < self.seating.params.threshold:
            return self.aborted("too-few-vectors")
        if len(self._masked) < self.seating.plan.floor:
            return self.aborted("below-privacy-floor")
        return SurvivorsPhase(self.seating, now_ms, self._shares, self._masked)
