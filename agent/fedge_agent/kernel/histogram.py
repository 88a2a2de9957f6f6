"""Percentiles of the kernel's log2 histograms: slot i holds latencies of [2^i, 2^(i+1)) us."""

from collections.abc import Sequence

MIN_SAMPLES = 20


def difference(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """Counts between two readings of one monotonic histogram; a restarted one (smaller totals) counts from zero."""
    if any(n < b for n, b in zip(now, before, strict=True)):
        return tuple(now)
    return tuple(n - b for n, b in zip(now, before, strict=True))


def percentile_us(counts: Sequence[int], share: float, *, min_samples: int = MIN_SAMPLES) -> float | None:
    """The latency that `share` of the samples do not exceed, linear inside a slot.

    Returns:
        None when there are fewer than `min_samples`: too few to judge is not the same as fast.
    """
    total = sum(counts)
    if total < max(min_samples, 1):
        return None
    rank = share * total
    passed = 0
    for slot, count in enumerate(counts):
        if count and passed + count >= rank:
            low = 0.0 if slot == 0 else float(1 << slot)
            return low + (float(1 << (slot + 1)) - low) * (rank - passed) / count
        passed += count
    return float(1 << len(counts))
