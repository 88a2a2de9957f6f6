"""What is published of each bucket, so that anyone can recompute its sum from the stored masked vectors."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta

from fedge_coordinator.aggregation.combine import BucketTotal
from fedge_coordinator.rounds.effects import BucketSummed
from fedge_protocol.cose import decode, encode
from fedge_protocol.ids import Hash32, Signature65
from fedge_protocol.messages import MAX_BUCKET, BlobRef, Body, Index, Indices, Round
from fedge_protocol.secagg.bucket_sum import verify_sum
from fedge_protocol.secagg.member import Peer
from fedge_protocol.secagg.params import BucketParams, Suite

MAX_EVIDENCE_BYTES = 4 * 1024 * 1024

Seed16 = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Revealed(Body, frozen=True):
    """One reconstructed secret: a survivor's self mask seed, or a drop-out's mask key seed."""

    seat: Index
    seed: Seed16


class Contributed(Body, frozen=True):
    """One vector in the sum, and its device's receipt."""

    seat: Index
    commitment: Hash32
    vector: BlobRef
    receipt: Signature65


class BucketEvidence(Body, frozen=True):
    """The ROUND that the members agreed to, who shared, whose vectors were summed, and the revealed seeds."""

    round: Round
    suite: Annotated[int, Meta(ge=1, le=2)]
    sharers: Indices
    contributed: Annotated[tuple[Contributed, ...], Meta(max_length=MAX_BUCKET)]
    self_masks: Annotated[tuple[Revealed, ...], Meta(max_length=MAX_BUCKET)]
    mask_keys: Annotated[tuple[Revealed, ...], Meta(max_length=MAX_BUCKET)]


def evidence_of(bucket: BucketSummed, suite: int) -> bytes:
    """The published bytes of a bucket."""
    return encode(
        BucketEvidence(
            round=decode(bucket.body, Round, max_bytes=MAX_EVIDENCE_BYTES),
            suite=suite,
            sharers=bucket.sharers,
            contributed=tuple(Contributed(c.seat, c.commitment, c.vector, c.receipt) for c in bucket.contributions),
            self_masks=tuple(Revealed(seat, seed) for seat, seed in sorted(bucket.self_masks.items())),
            mask_keys=tuple(Revealed(seat, seed) for seat, seed in sorted(bucket.mask_keys.items())),
        )
    )


def recompute_total(evidence: bytes, read_vector: Callable[[bytes], bytes]) -> tuple[Round, BucketTotal]:
    """Sum the bucket again from its evidence.

    Args:
        evidence: the published bytes.
        read_vector: bytes of a masked vector by SHA-256.

    Raises:
        RefusedError: the evidence does not decode.
        SecAggError: a revealed seed does not belong to its member.
    """
    found = decode(evidence, BucketEvidence, max_bytes=MAX_EVIDENCE_BYTES)
    body = found.round
    params = BucketParams(len(body.seats), body.threshold, body.levels, Suite(found.suite))
    peers = tuple(Peer(s.device, s.prekey.mask_public, s.prekey.channel_public) for s in body.seats)
    total = verify_sum(
        params,
        peers,
        hashlib.sha256(encode(body)).digest(),
        body.model_hash,
        vectors={c.seat: read_vector(c.vector.sha256) for c in found.contributed},
        commitments={c.seat: c.commitment for c in found.contributed},
        revealed_self={r.seat: r.seed for r in found.self_masks},
        revealed_mask={r.seat: r.seed for r in found.mask_keys},
    )
    weight_sum = sum(body.seats[c.seat].weight for c in found.contributed)
    return body, BucketTotal(total=total, levels=body.levels, weight_sum=weight_sum)


def totals_of(buckets: Sequence[BucketSummed]) -> tuple[BucketTotal, ...]:
    """The integers of freshly summed buckets, in order."""
    return tuple(
        BucketTotal(
            total=bucket.total,
            levels=decode(bucket.body, Round, max_bytes=MAX_EVIDENCE_BYTES).levels,
            weight_sum=sum(c.entry.ready.weight for c in bucket.contributions),
        )
        for bucket in buckets
    )
