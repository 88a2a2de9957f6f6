"""The day's bytes where the kernel does not count them: the agent holds itself to `kernel.daily_budget_mib`.

Same day, same limit, same file format as the kernel's budget, another file: it belongs to the daemon, which can cheat
nobody but its own owner's wish, and a bug in it is not caught, as the kernel would catch it. What is spent is written
before it is used, a slice at a time, so a kill at any moment never gives bytes back; it forgets at most one slice.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedge_agent.kernel import budget_file
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_records import Budget

_log = logging.getLogger(__name__)
FILE: Final = "network-budget.json"
"""In the state directory."""
_DAY_S: Final = 86_400
_SLICES: Final = 64
_SMALLEST_SLICE_BYTES, _LARGEST_SLICE_BYTES = 16 * 1024, 1024 * 1024


class UserBudget:
    """Bytes that may still be used today (`fedge_transport.route.Allowance`). May be used from any thread.

    A file that cannot be believed counts as a spent day, as the kernel's does.

    Args:
        path: where it is kept.
        limit_bytes: of a day (UTC), both directions.
        wall_s: Unix time.
    """

    def __init__(self, path: Path, limit_bytes: int, *, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._wall_s = wall_s
        self._slice_bytes = min(max(limit_bytes // _SLICES, _SMALLEST_SLICE_BYTES), _LARGEST_SLICE_BYTES)
        self._lock = threading.Lock()
        try:
            prior = budget_file.read(path)
        except PolicyError as error:
            _log.warning("%s; until then today counts as spent", error)
            prior = Budget(0, limit_bytes, self._today())
        self._budget = budget_file.carried(prior, limit_bytes, self._today())
        self._written_bytes = self._budget.left_bytes
        self._reserve()

    @property
    def limit_bytes(self) -> int:
        """Of a day."""
        return self._limit_bytes

    @property
    def left_bytes(self) -> int:
        """Of today, not below 0."""
        with self._lock:
            self._turn_day()
            return max(self._budget.left_bytes, 0)

    @property
    def spent(self) -> bool:
        """Whether nothing is left of today."""
        return self.left_bytes == 0

    def use(self, wire_bytes: int) -> None:
        """Count bytes that were sent or received."""
        with self._lock:
            self._turn_day()
            left = self._budget.left_bytes - wire_bytes
            if left <= 0 < self._budget.left_bytes:
                _log.warning(
                    "the day's %d bytes are spent; no connection until the day is over (UTC)", self._limit_bytes
                )
            self._budget = Budget(left, self._limit_bytes, self._budget.day)
            if left < self._written_bytes:
                self._reserve()

    def refilled_in_s(self) -> float:
        """Seconds until the next day begins (UTC)."""
        return _DAY_S - self._wall_s() % _DAY_S

    def close(self) -> None:
        """Write what is really left: nothing of the slice is lost."""
        with self._lock:
            self._write(self._budget.left_bytes)

    def _today(self) -> int:
        return budget_file.today(self._wall_s())

    def _turn_day(self) -> None:
        present = budget_file.carried(self._budget, self._limit_bytes, self._today())
        if present.day != self._budget.day:
            self._budget = present
            self._reserve()

    def _reserve(self) -> None:
        """Write as used what the next bytes will use."""
        self._write(self._budget.left_bytes - self._slice_bytes)

    def _write(self, left_bytes: int) -> None:
        self._written_bytes = left_bytes
        try:
            budget_file.write(self._path, Budget(left_bytes, self._limit_bytes, self._budget.day))
        except OSError as error:
            _log.warning("the day's budget cannot be saved to %s: %s", self._path, error)
