"""A bound on how often one caller may ask: a token bucket each, and a bounded number of buckets."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float


class Throttle:
    """Each key may ask `burst` times at once and `per_s` times a second for good; `clock` is monotonic seconds.

    Only the `capacity` keys seen last are remembered, so a flood of addresses costs no memory.
    """

    def __init__(self, *, per_s: float, burst: float, clock: Callable[[], float], capacity: int = 4096) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._capacity = capacity
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> float:
        """Seconds to wait before asking again; 0 when this time is granted."""
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        bucket.level = min(self._burst, bucket.level + (now - bucket.at_s) * self._per_s)
        bucket.at_s = now
        if bucket.level < 1:
            return (1 - bucket.level) / self._per_s
        bucket.level -= 1
        return 0.0
