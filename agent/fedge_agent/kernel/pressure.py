"""Pressure stall information: for how long tasks waited for CPU, memory or I/O, from the `total=` of the PSI files."""

import dataclasses
import enum
from pathlib import Path


class Resource(enum.Enum):
    """The three PSI files."""

    CPU = "cpu"
    MEMORY = "memory"
    IO = "io"


@dataclasses.dataclass(frozen=True, slots=True)
class Stall:
    """Monotonic totals in us: `some` task waited; all (`full`) waited, None where the kernel does not say."""

    some_us: int
    full_us: int | None


def parse_pressure(text: str) -> Stall:
    """Reads a PSI file.

    Raises:
        ValueError: it has no `some ... total=N` line.
    """
    totals: dict[str, int] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        for word in rest.split():
            if word.startswith("total="):
                totals[kind] = int(word.removeprefix("total="))
    if "some" not in totals:
        raise ValueError(f"not a pressure file: {text[:80]!r}")
    return Stall(totals["some"], totals.get("full"))


def read_pressure(path: Path) -> Stall | None:
    """The totals of one file; None where the kernel has no PSI (needs psi=1 on its command line) or hides it."""
    try:
        return parse_pressure(path.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        return None
