"""What the round machine asks its driver to do. The machine itself touches nothing."""

from dataclasses import dataclass, field

from fedge_protocol.messages import BlobRef, Body, Offer, Result, Up


@dataclass(frozen=True)
class Fetch:
    """Get both blobs of the offer; answer with `fetched` or `fetch_failed`."""

    offer: Offer


@dataclass(frozen=True)
class AskAdmission:
    """Wait until the device may train; answer with `admitted` or `not_admitted`."""

    offer: Offer


@dataclass(frozen=True)
class Train:
    """Train in the worker; answer with `trained` or `training_failed`."""

    offer: Offer


@dataclass(frozen=True)
class BurnPrekey:
    """Delete the private halves for good, before anything that follows is sent."""

    prekey_id: int


@dataclass(frozen=True)
class MaskUpdate:
    """Have the worker quantise and mask the update; answer with `masked`. `repr` shows no seed."""

    pairs: tuple[tuple[int, bytes], ...] = field(repr=False)
    self_seed: bytes = field(repr=False)
    suite: int
    levels: int
    coordinate_range: float
    rotation_seed: bytes
    weight: int
    weight_max: int


@dataclass(frozen=True)
class Say:
    """Sign `body` as `kind`, persist it, and send it until the coordinator's ACK.

    `final` marks a body of which no second version may ever be signed for this round and attempt.
    """

    kind: Up
    body: Body
    final: bool = True


@dataclass(frozen=True)
class SendVector:
    """Send the chunks of the masked vector until the manifest's ACK."""

    vector: BlobRef


@dataclass(frozen=True)
class Hold:
    """From here to the end of the round the worker must not be frozen: a pause would look like a drop-out."""


@dataclass(frozen=True)
class Finished:
    """The round is over for this device. `outcome` is a word for status and metrics."""

    outcome: str
    detail: str = ""
    result: Result | None = None


Effect = Fetch | AskAdmission | Train | BurnPrekey | MaskUpdate | Say | SendVector | Hold | Finished
