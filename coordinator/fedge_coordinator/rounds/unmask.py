"""Phase 4 (E4): shares of the survivors' self masks and of the drop-outs' mask keys, never both of one device."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from fedge_coordinator.rounds.effects import BucketAborted, BucketSummed, Contribution, Send
from fedge_coordinator.rounds.inputs import Input, Kind
from fedge_coordinator.rounds.phase import Phase
from fedge_coordinator.rounds.seating import Seating
from fedge_protocol.cose import decode
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Down, Masked, Shares, SignedBy, Survivors, Unmask, UnmaskRequest, UnmaskShares
from fedge_protocol.sealing import unseal
from fedge_protocol.secagg.bucket_sum import BucketSum
from fedge_protocol.secagg.errors import SecAggError
from fedge_protocol.secagg.member import UnmaskShare
from fedge_protocol.secagg.padding import padded_dim


class UnmaskPhase(Phase):
    """Sends UNMASK-REQUEST to U2, collects shares, and sums as soon as they suffice."""

    awaits = Kind.UNMASK

    def __init__(
        self,
        seating: Seating,
        now_ms: int,
        shares: Mapping[int, Shares],
        masked: Mapping[int, Masked],
        question: Survivors,
        signatures: tuple[SignedBy, ...],
    ) -> None:
        super().__init__(seating, now_ms)
        self._shares, self._masked, self._question = shares, masked, question
        self._request = UnmaskRequest(context=seating.context, signatures=signatures)
        self._signed = {signature.seat for signature in signatures}
        self._answers: dict[int, tuple[UnmaskShare, ...]] = {}
        self._summed: BucketSummed | None = None
        self._failure = "too-few-unmask-shares"

    @cached_property
    def _sum(self) -> BucketSum:
        """The masked sum; made when the first answer is in, while the other devices still work on theirs."""
        seating = self.seating
        total = BucketSum(
            seating.params, seating.peers, seating.context, seating.body.model_hash, padded_dim(seating.plan.offer.dim)
        )
        for seat, masked in self._masked.items():
            total.add(seat, seating.read_vector(masked.vector.sha256))
        return total

    def accept(self, seat: int, entry: Input) -> None:
        """See `Phase.accept`."""
        body = decode(entry.body, Unmask)
        self.seating.check_context(body.context)
        if seat not in self._masked:
            raise RefusedError(Reason.OUT_OF_PHASE, "unmasking shares without a vector")
        plain = unseal(self.seating.plan.seal_private, body.sealed, self.seating.context)
        answers = decode(plain, UnmaskShares).answers
        if [answer.seat for answer in answers] != sorted(self._shares):
            raise RefusedError(Reason.MALFORMED, "not exactly one share for every sharer")
        if any(answer.of_mask_key == (answer.seat in self._masked) for answer in answers):
            raise RefusedError(Reason.BAD_SHARE, "a share of the wrong secret")
        self._answers[seat] = tuple(
            UnmaskShare(owner=answer.seat, of_mask_key=answer.of_mask_key, share=answer.share) for answer in answers
        )
        self._try_sum()

    def _try_sum(self) -> None:
        masked_sum = self._sum
        if self._summed is not None or len(self._answers) < self.seating.params.threshold:
            return
        seating = self.seating
        try:
            unmasked = masked_sum.finish(
                frozenset(self._shares),
                frozenset(self._masked),
                {seat: shares.commitment for seat, shares in self._shares.items()},
                self._answers,
            )
        except SecAggError as error:
            self._failure = type(error).__name__.lower()
            return
        self._summed = BucketSummed(
            body=seating.encoded,
            total=unmasked.total,
            sharers=tuple(sorted(self._shares)),
            contributions=tuple(
                Contribution(
                    seating.entries[s], s, self._shares[s].commitment, self._masked[s].vector, self._masked[s].receipt
                )
                for s in self._question.survivors
            ),
            dropped=tuple(e.device for s, e in enumerate(seating.entries) if s not in self._masked),
            self_masks=dict(unmasked.revealed_self),
            mask_keys=dict(unmasked.revealed_mask),
            faults=tuple(str(fault) for fault in unmasked.faults),
        )

    @property
    def complete(self) -> bool:
        """The sum is known."""
        return self._summed is not None

    def outstanding(self) -> Iterable[Send]:
        """UNMASK-REQUEST for whoever has not answered; before it SURVIVORS for whoever has not signed."""
        for seat in self._question.survivors:
            if seat in self._answers:
                continue
            device = self.seating.entries[seat].device
            if seat not in self._signed:
                yield Send(device, Down.SURVIVORS, self._question)
            yield Send(device, Down.UNMASK_REQUEST, self._request)

    def leave(self, now_ms: int) -> Phase | BucketSummed | BucketAborted:  # noqa: ARG002 - no phase follows
        """The end of the bucket."""
        return self._summed if self._summed is not None else self.aborted(self._failure)
