"""What the round machine asks its driver to do after an input."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge_coordinator.rounds.inputs import Entry
from fedge_protocol.messages import BlobRef, Body, Down


@dataclass(frozen=True)
class Send:
    """Publish `body` to a device, again and again until its answer is in or the phase has ended."""

    device: str
    kind: Down
    body: Body


@dataclass(frozen=True)
class BurnPrekeys:
    """These (device, prekey id) pairs are spent whatever follows; commit before ROUND is sent."""

    prekeys: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Contribution:
    """One survivor: its seat, its commitment to the self mask, the masked vector and the receipt over its hash."""

    entry: Entry
    seat: int
    commitment: bytes
    vector: BlobRef
    receipt: bytes


@dataclass(frozen=True)
class BucketSummed:
    """A bucket whose sum is known. `total` is (padded_dim,) uint16, still rotated and quantised.

    `self_masks` (survivors) and `mask_keys` (drop-outs after sharing) are the revealed 16-byte seeds by seat: with the
    stored vectors anyone can recompute `total`. `body` is the ROUND body whose SHA-256 is the context.
    """

    body: bytes
    total: npt.NDArray[np.uint16]
    sharers: tuple[int, ...]
    contributions: tuple[Contribution, ...]
    dropped: tuple[str, ...]
    self_masks: dict[int, bytes]
    mask_keys: dict[int, bytes]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class BucketAborted:
    """A bucket without a sum; its devices are left out of the round."""

    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class RoundSummed:
    """Every bucket has ended and at least one has a sum. `cohort`: chain addresses of every device that had a seat."""

    cohort: tuple[bytes, ...]
    buckets: tuple[BucketSummed, ...]
    aborted: tuple[BucketAborted, ...]


@dataclass(frozen=True)
class RoundAborted:
    """The round ended without any sum."""

    reason: str
    devices: tuple[str, ...]


Effect = Send | BurnPrekeys | RoundSummed | RoundAborted
