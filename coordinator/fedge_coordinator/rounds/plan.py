"""What is fixed when a round opens. Stored before the offer is published: a restart continues the same round."""

import hashlib

from fedge_protocol.cose import encode
from fedge_protocol.ids import Counter, Fleet, Key32, Small
from fedge_protocol.messages import Body, Offer


class RoundPlan(Body, frozen=True):
    """One attempt at one round of a job.

    `seed` opens the offer's commitment and places devices into buckets; `seal_private` is the X25519 key behind the
    offer's `seal_key`; `rotation_seed` the shared rotation of the update. `opened_ms` is Unix milliseconds. A bucket
    whose sum would hold fewer than `floor` updates is aborted.
    """

    fleet: Fleet
    offer: Offer
    seed: Key32
    seal_private: Key32
    rotation_seed: Key32
    opened_ms: Counter
    floor: Small

    @property
    def offer_hash(self) -> bytes:
        """SHA-256 of the offer's body."""
        return hashlib.sha256(encode(self.offer)).digest()
