"""Checks a ROUND before anything is shared: nothing in it is taken on the coordinator's word.

Counter-measures of research on secure aggregation: key substitution (every prekey is signed by a certified device key),
chosen buckets (the assignment is recomputed from the opened seed), a second model (the context binds H(model)).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.federation.consent import Consent
from fedge_protocol.cose import verify_raw
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Offer, Round, prekey_statement
from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.member import Peer
from fedge_protocol.secagg.padding import coordinate_range_for
from fedge_protocol.secagg.params import BucketParams, Suite

CertificateCheck = Callable[[bytes], tuple[str, ec.EllipticCurvePublicKey]]


@dataclass(frozen=True)
class Expectation:
    """What this device knows before ROUND arrives."""

    fleet: str
    device: str
    offer: Offer
    offer_hash: bytes
    nonce: bytes
    weight: int
    prekey_id: int
    mask_public: bytes
    channel_public: bytes


@dataclass(frozen=True)
class Bucket:
    """A ROUND that has passed every check: `peers` and `keys` in seat order."""

    params: BucketParams
    peers: tuple[Peer, ...]
    keys: tuple[ec.EllipticCurvePublicKey, ...]
    own: int


def check_round(body: Round, known: Expectation, consent: Consent, check_certificate: CertificateCheck) -> Bucket:
    """Verify a ROUND against the offer, the owner's consent and every peer's certificate.

    Args:
        body: the decoded ROUND.
        known: this device's view of the round.
        consent: the owner's limits.
        check_certificate: returns (device id, identity key) of a valid certificate of this fleet, or raises
            `RefusedError`.

    Raises:
        RefusedError: with the first thing that is wrong.
    """
    _check_offer(body, known)
    _check_assignment(body, known)
    consent.check_sum(len(body.seats))
    params = BucketParams.for_size(len(body.seats), Suite(known.offer.suite))
    if (body.threshold, body.levels) != (params.threshold, params.levels):
        raise RefusedError(Reason.BELOW_THRESHOLD, f"threshold {body.threshold}, levels {body.levels}")
    peers, keys, own = [], [], -1
    for index, seat in enumerate(body.seats):
        device, key = check_certificate(seat.certificate)
        if device != seat.device:
            raise RefusedError(Reason.BAD_SIGNATURE, f"seat {index}: the certificate is of another device")
        prekey = seat.prekey
        statement = prekey_statement(known.fleet, device, prekey.prekey_id, prekey.mask_public, prekey.channel_public)
        verify_raw(key, prekey.signature, statement)
        if device == known.device:
            own = index
            _check_own(prekey.prekey_id, prekey.mask_public, prekey.channel_public, seat.weight, known)
        peers.append(Peer(device=device, mask_public=prekey.mask_public, channel_public=prekey.channel_public))
        keys.append(key)
    return Bucket(params=params, peers=tuple(peers), keys=tuple(keys), own=own)


def _check_offer(body: Round, known: Expectation) -> None:
    offer = known.offer
    if (body.job, body.round, body.attempt) != (offer.job, offer.round, offer.attempt):
        raise RefusedError(Reason.WRONG_ROUND, f"{body.job} {body.round}.{body.attempt}")
    if body.offer_hash != known.offer_hash or body.model_hash != offer.weights.sha256:
        raise RefusedError(Reason.WRONG_CONTEXT, "another offer or model than the one trained for")
    if hashlib.sha256(body.seed).digest() != offer.seed_commitment:
        raise RefusedError(Reason.WRONG_CONTEXT, "the seed does not open the offer's commitment")
    if body.coordinate_range != coordinate_range_for(offer.training.clip_norm, offer.dim):
        raise RefusedError(Reason.WRONG_CONTEXT, f"coordinate range {body.coordinate_range} is not the offer's")
    if len(body.entrants) < offer.cohort.minimum:
        raise RefusedError(Reason.COHORT_TOO_SMALL, f"{len(body.entrants)} devices, {offer.cohort.minimum} offered")


def _check_assignment(body: Round, known: Expectation) -> None:
    names = [entrant.device for entrant in body.entrants]
    if names != sorted(set(names)):
        raise RefusedError(Reason.MALFORMED, "entrants are not sorted or not distinct")
    if (known.device, known.nonce) not in {(entrant.device, entrant.nonce) for entrant in body.entrants}:
        raise RefusedError(Reason.NOT_IN_COHORT, "own READY is not among the entrants")
    buckets = assign(body.seed, [(entrant.device, entrant.nonce) for entrant in body.entrants])
    seats = tuple(seat.device for seat in body.seats)
    if body.bucket >= len(buckets) or buckets[body.bucket] != seats or known.device not in seats:
        raise RefusedError(Reason.WRONG_CONTEXT, "the bucket is not the one that seed and entrants give")


def _check_own(prekey_id: int, mask_public: bytes, channel_public: bytes, weight: int, known: Expectation) -> None:
    if prekey_id != known.prekey_id or weight != known.weight:
        raise RefusedError(Reason.WRONG_CONTEXT, "own prekey or weight is not the one offered")
    if (mask_public, channel_public) != (known.mask_public, known.channel_public):
        raise RefusedError(Reason.BAD_SIGNATURE, "own keys were replaced")
