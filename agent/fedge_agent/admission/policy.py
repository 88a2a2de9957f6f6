"""The marks that decide when a device may train. Start values: measured, see docs/operations."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from fedge_agent.admission.hours import QuietHours


class PolicyValueError(ValueError):
    """A value of the admission policy is unknown or out of range; the message names it and what is accepted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """Hysteresis: at or under `low` is quiet, over `high` is too much, between them nothing changes."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuses marks that would flap.

        Raises:
            PolicyValueError: low is not below high, or is negative.
        """
        if not 0 <= self.low < self.high:
            raise PolicyValueError(f"mark [{self.low}, {self.high}]: 0 <= low < high is needed")


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where the policy's facts are found; None: nowhere, what depends on it is not judged.

    Attributes:
        state_dir: the day's use is kept here, and the disk is this one's.
        pin_dir: the kernel counts the agent's bytes here.
    """

    state_dir: Path | None = None
    pin_dir: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """When to train, pause and resume.

    Attributes:
        run_queue_p95_us: how long everybody else's tasks wait for a CPU, 95th percentile of a window.
        cpu_some: share of time in which some task of others waited for a CPU (PSI).
        memory_some: as above, for memory.
        io_some: as above, for I/O.
        temperature_c: the hottest thermal zone.
        battery_percent: on battery, pause under `low` and be quiet from `high`.
        require_mains: on battery, never train.
        quiet_hours: never train in these hours of local time.
        disk_free_mib: pause when less than `low` is free in the state directory, be quiet from `high`.
        allow_metered: train while the default link is metered (a modem's).
        allow_wireless: train while the default link is wireless.
        cpu_seconds_a_day: most CPU time of training in a day (UTC); 0: no limit.
        mib_a_day: most bytes of the agent, both ways, in a day; 0: no limit. Needs the kernel programs to count.
        rounds_a_day: most rounds that begin to train in a day; 0: no limit.
        window_s: length of a sampling window while admitted, running or paused.
        consider_every_s: length of a window while a job waits for admission.
        enter_after_s: quiet for so long before a job is admitted.
        pause_after_windows: over a high mark in so many windows in a row: pause.
        resume_after_windows: quiet in so many windows in a row: resume.
        places: not a setting of the table.
    """

    run_queue_p95_us: Mark = Mark(1000.0, 2000.0)
    cpu_some: Mark = Mark(0.05, 0.15)
    memory_some: Mark = Mark(0.01, 0.05)
    io_some: Mark = Mark(0.05, 0.20)
    temperature_c: Mark = Mark(70.0, 80.0)
    battery_percent: Mark = Mark(30.0, 40.0)
    require_mains: bool = False
    quiet_hours: tuple[QuietHours, ...] = ()
    disk_free_mib: Mark = Mark(32.0, 64.0)
    allow_metered: bool = False
    allow_wireless: bool = True
    cpu_seconds_a_day: int = 0
    mib_a_day: int = 0
    rounds_a_day: int = 0
    window_s: float = 0.2
    consider_every_s: float = 1.0
    enter_after_s: float = 2.0
    pause_after_windows: int = 2
    resume_after_windows: int = 10
    places: Places = dataclasses.field(default=Places(), compare=False)

    def __post_init__(self) -> None:
        """Checks the times and counts.

        Raises:
            PolicyValueError: one is out of range.
        """
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise PolicyValueError(f"{name} = {value}: {lowest} to {highest} is accepted")

    @classmethod
    def from_mapping(cls, table: Mapping[str, object]) -> Self:
        """A policy from a decoded configuration table; marks are `[low, high]`, what is not named keeps its default.

        Raises:
            PolicyValueError: unknown name, wrong type or value out of range.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls) if field.name != "places"}
        values: dict[str, object] = {}
        for name, value in table.items():
            if name not in known:
                raise PolicyValueError(f"{name!r} is no admission setting; known are {', '.join(known)}")
            values[name] = _decode(name, value, known[name])
        return dataclasses.replace(cls(), **values)  # type: ignore[arg-type]  # _decode gave each its default's type


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("cpu_seconds_a_day", 0, 86_400 * 1024),
    ("mib_a_day", 0, 1 << 30),
    ("rounds_a_day", 0, 1_000_000),
    ("window_s", 0.01, 10.0),
    ("consider_every_s", 0.01, 60.0),
    ("enter_after_s", 0.0, 3600.0),
    ("pause_after_windows", 1, 100),
    ("resume_after_windows", 1, 1000),
)


def _decode(name: str, value: object, default: object) -> object:
    if isinstance(default, Mark):
        if not isinstance(value, list | tuple) or len(value) != 2:  # noqa: PLR2004 - a pair
            raise PolicyValueError(f"{name} = {value!r}: [low, high] is needed")
        try:
            return Mark(_number(name, value[0]), _number(name, value[1]))
        except PolicyValueError as error:
            raise PolicyValueError(f"{name}: {error}") from error
    if isinstance(default, tuple):
        return _decode_hours(name, value)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise PolicyValueError(f"{name} = {value!r}: true or false is needed")
        return value
    number = _number(name, value)
    if isinstance(default, int):
        if number != int(number):
            raise PolicyValueError(f"{name} = {value!r}: a whole number is needed")
        return int(number)
    return number


def _decode_hours(name: str, value: object) -> tuple[QuietHours, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise PolicyValueError(f'{name} = {value!r}: a list such as ["08:00-18:30"] is needed')
    try:
        return tuple(QuietHours.parse(item) for item in value)
    except ValueError as error:
        raise PolicyValueError(f"{name}: {error}") from error


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyValueError(f"{name} = {value!r}: a number is needed")
    return float(value)
