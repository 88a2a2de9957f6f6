"""CLOSE: the sorted READY set and the opened seed give the buckets; each bucket gets its ROUND."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_coordinator.rounds.inputs import Entry
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_protocol.cose import encode
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Entrant, Round, Seat
from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.member import Peer
from fedge_protocol.secagg.padding import coordinate_range_for
from fedge_protocol.secagg.params import BucketParams, Suite


@dataclass(frozen=True)
class Seating:
    """One bucket: the ROUND its members got, and their entries in seat order.

    `read_vector` gives the bytes of a stored masked vector by its SHA-256.
    """

    plan: RoundPlan
    body: Round
    params: BucketParams
    entries: tuple[Entry, ...]
    read_vector: Callable[[bytes], bytes]

    @cached_property
    def encoded(self) -> bytes:
        """The ROUND body as every member got it."""
        return encode(self.body)

    @cached_property
    def context(self) -> bytes:
        """SHA-256 of the ROUND body: what everything after is bound to."""
        return hashlib.sha256(self.encoded).digest()

    @cached_property
    def peers(self) -> tuple[Peer, ...]:
        """The bucket as the secure aggregation sees it."""
        return tuple(
            Peer(device=e.device, mask_public=e.prekey.mask_public, channel_public=e.prekey.channel_public)
            for e in self.entries
        )

    def key_of(self, seat: int) -> ec.EllipticCurvePublicKey:
        """The identity key in a seat's certificate, which enrolment has checked to be P-256."""
        key = x509.load_der_x509_certificate(self.entries[seat].certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RefusedError(Reason.BAD_SIGNATURE, f"seat {seat} has no P-256 key")
        return key

    def check_context(self, context: bytes) -> None:
        """Raises: RefusedError: `wrong-context`."""
        if context != self.context:
            raise RefusedError(Reason.WRONG_CONTEXT, "of another ROUND")


def seat(plan: RoundPlan, entries: Mapping[str, Entry], read_vector: Callable[[bytes], bytes]) -> tuple[Seating, ...]:
    """The buckets of a closed READY set."""
    offer = plan.offer
    entrants = tuple(Entrant(device=name, nonce=entries[name].ready.nonce) for name in sorted(entries))
    buckets = assign(plan.seed, [(entrant.device, entrant.nonce) for entrant in entrants])
    seatings = []
    for number, members in enumerate(buckets):
        params = BucketParams.for_size(len(members), Suite(offer.suite))
        body = Round(
            job=offer.job,
            round=offer.round,
            attempt=offer.attempt,
            offer_hash=plan.offer_hash,
            model_hash=offer.weights.sha256,
            seed=plan.seed,
            entrants=entrants,
            bucket=number,
            seats=tuple(
                Seat(
                    device=name,
                    certificate=entries[name].certificate,
                    prekey=entries[name].prekey,
                    weight=entries[name].ready.weight,
                )
                for name in members
            ),
            threshold=params.threshold,
            levels=params.levels,
            coordinate_range=coordinate_range_for(offer.training.clip_norm, offer.dim),
            rotation_seed=plan.rotation_seed,
        )
        members_entries = tuple(entries[name] for name in members)
        seatings.append(Seating(plan=plan, body=body, params=params, entries=members_entries, read_vector=read_vector))
    return tuple(seatings)
