"""What training has used of the owner's budgets today, kept over restarts and power cuts."""

import contextlib
import dataclasses
import json
import logging
import os
from pathlib import Path

from fedge_agent.kernel.budget_file import EARLIEST_DAY

_log = logging.getLogger(__name__)
_VERSION = 1
_MAX_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """One day's use.

    Attributes:
        day: days since 1970-01-01 UTC.
        cpu_s: CPU time of training workers.
        traffic_bytes: of the agent, both ways.
        rounds: that began to train.
    """

    day: int
    cpu_s: float = 0.0
    traffic_bytes: int = 0
    rounds: int = 0


class Ledger:
    """The present day's use.

    Args:
        path: of its file; None keeps it in memory alone.
        day: of the first look, as `Used.day`.
    """

    def __init__(self, path: Path | None, day: int) -> None:
        self._path = path
        self._used = (None if path is None else _read(path)) or Used(day)
        self._saved = self._used

    def used(self, day: int) -> Used:
        """The use of `day`; a clock that went back refills nothing, and one that was never set moves nothing."""
        if day > self._used.day:
            self._used = Used(day)
        elif EARLIEST_DAY <= day < self._used.day:
            self._used = dataclasses.replace(self._used, day=day)
        return self._used

    def add(self, day: int, *, cpu_s: float = 0.0, traffic_bytes: int = 0, rounds: int = 0) -> None:
        """Counts what was used since the last call; `save` makes it last."""
        used = self.used(day)
        self._used = dataclasses.replace(
            used,
            cpu_s=used.cpu_s + cpu_s,
            traffic_bytes=used.traffic_bytes + traffic_bytes,
            rounds=used.rounds + rounds,
        )

    def save(self) -> None:
        """Writes the file if there is something new; a disk that refuses is told, and the day goes on in memory."""
        if self._path is None or self._used == self._saved:
            return
        fresh = self._path.with_name(f".{self._path.name}.new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                file.write(json.dumps({"version": _VERSION} | dataclasses.asdict(self._used)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("the day's use cannot be saved in %s: %s", self._path, error)
            return
        self._saved = self._used


def _read(path: Path) -> Used | None:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        with contextlib.suppress(AttributeError):
            if found.get("version") == _VERSION:
                used = Used(int(found["day"]), float(found["cpu_s"]), int(found["traffic_bytes"]), int(found["rounds"]))
                if min(used.cpu_s, used.traffic_bytes, used.rounds) >= 0:
                    return used
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        _log.warning("the day's use in %s is not readable and begins anew: %s", path, error)
        return None
    _log.warning("the day's use in %s is of another version and begins anew", path)
    return None
