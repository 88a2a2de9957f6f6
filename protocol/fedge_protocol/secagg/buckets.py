"""Which device sits in which bucket: recomputable by every device from the revealed seed and all nonces."""

from collections.abc import Sequence
from typing import Final

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import SEED_BYTES, derive
from fedge_protocol.secagg.labels import NONCES, ORDER
from fedge_protocol.secagg.params import BUCKET_TARGET, MIN_SIZE

MIN_NONCE_BYTES: Final = 16
MAX_FIELD_BYTES: Final = 64


def bucket_count(devices: int) -> int:
    """One up to 2 * 32 devices, otherwise the count that brings the sizes nearest to 32 (within 26..40)."""
    if devices <= 2 * BUCKET_TARGET:
        return 1
    return (devices + BUCKET_TARGET // 2) // BUCKET_TARGET


def assign(seed: bytes, ready: Sequence[tuple[str, bytes]]) -> tuple[tuple[str, ...], ...]:
    """F(seed, nonces): deal all devices into buckets whose sizes differ by at most one.

    Key = derive(seed, NONCES, device, nonce, device, nonce, ...) over the devices in sorted order; the devices are put
    in the order of derive(key, ORDER, device); consecutive runs make the buckets, the longer ones first. Whoever chose
    the seed could not foresee the nonces, and no device could foresee the seed.

    Args:
        seed: 32 bytes, committed to before the first nonce was seen.
        ready: every accepted device and its nonce (16 to 64 bytes), in any order.

    Returns:
        The buckets; each is sorted by device.

    Raises:
        BadInput: fewer than two devices, one of them twice, or a field of the wrong size.
    """
    if len(seed) != SEED_BYTES:
        raise BadInput(f"the bucket seed has {len(seed)} bytes instead of {SEED_BYTES}")
    if len(ready) < MIN_SIZE:
        raise BadInput(f"{len(ready)} devices make no bucket; it takes {MIN_SIZE}")
    entries = sorted((device.encode(), nonce) for device, nonce in ready)
    if len({device for device, _ in entries}) != len(entries):
        raise BadInput("a device is listed twice among the ready ones")
    for device, nonce in entries:
        if not 1 <= len(device) <= MAX_FIELD_BYTES or not MIN_NONCE_BYTES <= len(nonce) <= MAX_FIELD_BYTES:
            raise BadInput(f"device {device!r} has a name or nonce of the wrong size ({len(nonce)} bytes of nonce)")
    key = derive(seed, NONCES, *(field for entry in entries for field in entry))
    order = sorted(device for device, _ in entries)
    order.sort(key=lambda device: derive(key, ORDER, device))
    count = bucket_count(len(order))
    base, longer = divmod(len(order), count)
    buckets: list[tuple[str, ...]] = []
    start = 0
    for number in range(count):
        end = start + base + (1 if number < longer else 0)
        buckets.append(tuple(sorted(device.decode() for device in order[start:end])))
        start = end
    return tuple(buckets)
