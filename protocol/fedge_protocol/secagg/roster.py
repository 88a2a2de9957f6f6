"""Who sits in a bucket, and the 32 bytes that bind everything to exactly this bucket, round and model."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from fedge_protocol.secagg.errors import BadInput, BadRoster
from fedge_protocol.secagg.kdf import digest
from fedge_protocol.secagg.labels import BINDING
from fedge_protocol.secagg.params import BucketParams
from fedge_protocol.secagg.x25519 import KEY_BYTES

HASH_BYTES: Final = 32


@dataclass(frozen=True)
class Peer:
    """One member as the others see it. That the device vouches for its keys is checked before it gets here.

    Args:
        device: its id.
        mask_public: X25519, 32 bytes, one-time.
        channel_public: X25519, 32 bytes, one-time.
    """

    device: str
    mask_public: bytes
    channel_public: bytes


Roster = tuple[Peer, ...]


def check_roster(params: BucketParams, roster: Roster) -> None:
    """Refuse a roster of the wrong size, not strictly sorted by device, or with one key in two places.

    Raises:
        BadRoster: which of these it was.
    """
    if len(roster) != params.size:
        raise BadRoster(f"the roster has {len(roster)} members, the parameters say {params.size}")
    devices = [peer.device for peer in roster]
    if any(left >= right for left, right in pairwise(devices)):
        raise BadRoster("the roster is not sorted by device, or lists one twice")
    if any(len(peer.mask_public) != KEY_BYTES or len(peer.channel_public) != KEY_BYTES for peer in roster):
        raise BadRoster(f"a public key in the roster has not {KEY_BYTES} bytes")
    keys = {key for peer in roster for key in (peer.mask_public, peer.channel_public)}
    if len(keys) != 2 * len(roster):
        raise BadRoster("the same public key is listed twice in the roster")


def round_binding(params: BucketParams, roster: Roster, context: bytes, model_hash: bytes) -> bytes:
    """32 bytes that differ as soon as parameters, roster, context or model differ; part of every KDF and AAD.

    Devices that were told different things therefore agree on no key: their masks do not cancel and their shares do not
    open, so that the sum is noise instead of a leak.

    Args:
        params: of the bucket.
        roster: of the bucket, checked.
        context: H(ROUND body), 32 bytes.
        model_hash: SHA-256 of the model's weights, 32 bytes.

    Raises:
        BadInput: context or model hash has not 32 bytes.
    """
    if len(context) != HASH_BYTES or len(model_hash) != HASH_BYTES:
        raise BadInput(f"context and model hash have {len(context)} and {len(model_hash)} bytes, not {HASH_BYTES} each")
    numbers = (params.size, params.threshold, params.levels, int(params.suite), params.ring_bits)
    members = (field for peer in roster for field in (peer.device.encode(), peer.mask_public, peer.channel_public))
    return digest(BINDING, context, model_hash, b"".join(number.to_bytes(4, "little") for number in numbers), *members)


def check_indices(what: str, indices: Iterable[int], size: int) -> None:
    """Refuse a set that names somebody outside of the roster.

    Raises:
        BadInput: with the index at fault.
    """
    for index in indices:
        if not 0 <= index < size:
            raise BadInput(f"{what} names member {index}, the bucket has {size}")
