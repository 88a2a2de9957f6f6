"""Hours of the day in which the device must be left alone, as `HH:MM-HH:MM` of local time."""

import dataclasses
import re
from typing import Self

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_HOUR_MIN = 60


@dataclasses.dataclass(frozen=True, slots=True)
class QuietHours:
    """From `begin_min` (minutes since midnight) up to `end_min`, over midnight when that is earlier."""

    begin_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `22:30-06:00`.

        Raises:
            ValueError: not of that form, or an empty span.
        """
        match = _SPAN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not HH:MM-HH:MM, e.g. 08:00-18:30")
        begin_h, begin_m, end_h, end_m = (int(group) for group in match.groups())
        begin, end = begin_h * _HOUR_MIN + begin_m, end_h * _HOUR_MIN + end_m
        if begin == end:
            raise ValueError(f"{text!r} is empty; 00:00-23:59 is nearly the whole day")
        return cls(begin, end)

    def holds(self, minute: int) -> bool:
        """Whether this minute of the day lies in the span."""
        if self.begin_min < self.end_min:
            return self.begin_min <= minute < self.end_min
        return minute >= self.begin_min or minute < self.end_min

    def __str__(self) -> str:
        return "-".join(f"{m // _HOUR_MIN:02}:{m % _HOUR_MIN:02}" for m in (self.begin_min, self.end_min))
