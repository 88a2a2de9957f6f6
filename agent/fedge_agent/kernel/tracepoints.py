"""Compares the tracepoint offsets the programs were compiled with to the running kernel's.

Tracepoint structs are not UAPI (32-bit `long`, PREEMPT_RT's extra common byte): a program with a wrong offset would
read nonsense without complaint, so it is left out instead and its substitute serves.
"""

import re
from pathlib import Path

from fedge_agent.kernel.programs import Program

TRACEFS_PLACES = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
_FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);")


def find_tracefs(root: Path = Path("/")) -> Path | None:
    """The mounted trace file system, or None."""
    for place in TRACEFS_PLACES:
        try:
            if (root / place / "events").is_dir():
                return root / place
        except OSError:
            continue
    return None


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """Field name -> (offset, size), from a tracepoint's `format` file."""
    return {name: (int(offset), int(size)) for name, offset, size in _FIELD.findall(text)}


def mismatch(program: Program, tracefs: Path | None) -> str | None:
    """Why this tracepoint program must be left out on this kernel; None when it fits."""
    if tracefs is None:
        return "tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing"
    category, event = program.tracepoint
    path = tracefs / "events" / category / event / "format"
    try:
        found = parse_format(path.read_text(encoding="ascii", errors="replace"))
    except FileNotFoundError:
        return f"this kernel has no tracepoint {category}:{event}"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); CAP_DAC_READ_SEARCH is needed"
    for field in program.fields:
        present = found.get(field.name)
        if present != (field.offset, field.size):
            wanted = (field.offset, field.size)
            return f"{category}:{event} has {field.name} at (offset, size) {present}, compiled for {wanted}"
    return None
