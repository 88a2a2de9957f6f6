"""Compares the tracepoint offsets the programs were compiled with to the running kernel's.

Tracepoint structs are not UAPI (32-bit `long`, PREEMPT_RT's extra common byte): a program with a wrong offset would
read nonsense without complaint. It is compiled anew by bcc with the kernel's own offsets; where that cannot be, it is
left out and its substitute serves.
"""

import os
from collections.abc import Iterable

from fedge_agent.kernel.frozen import dataclass, replace
from fedge_agent.kernel.programs import Program, TracepointField
from fedge_agent.kernel.text_files import StrPath, read_text

TRACEFS_PLACES = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
_TYPES = {1: "__u8", 2: "__u16", 4: "__u32", 8: "__u64", 16: "__u32"}
"""By size; of an IPv6 address the words."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a program fits the running kernel.

    Attributes:
        reason: why the compiled object's program cannot be used; None when it fits.
        fields: where the kernel has the fields; None when no compiler can help (no such tracepoint or field).
    """

    reason: str | None
    fields: tuple[TracepointField, ...] | None


def find_tracefs(root: StrPath = "/") -> str | None:
    """The mounted trace file system, or None."""
    places = (os.path.join(root, place) for place in TRACEFS_PLACES)
    return next((place for place in places if os.path.isdir(os.path.join(place, "events"))), None)


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """Field name -> (offset, size), from a tracepoint's `format` file.

    Its lines are `field:TYPE NAME[LENGTH]; offset:NUMBER; size:NUMBER; signed:NUMBER;`.
    """
    found = {}
    for line in text.splitlines():
        declaration, *rest = (part.strip() for part in line.split(";"))
        numbers = dict(part.split(":", 1) for part in rest if ":" in part)
        if declaration.startswith("field:") and numbers.keys() >= {"offset", "size"}:
            name = declaration.split()[-1].partition("[")[0]
            found[name] = int(numbers["offset"]), int(numbers["size"])
    return found


def layout(program: Program, tracefs: StrPath | None) -> Layout:
    """How a tracepoint program fits this kernel."""
    if tracefs is None:
        return Layout("tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing", None)
    category, event = program.tracepoint
    path = os.path.join(tracefs, "events", category, event, "format")
    try:
        found = parse_format(read_text(path))
    except FileNotFoundError:
        return Layout(f"this kernel has no tracepoint {category}:{event}", None)
    except OSError as error:
        return Layout(f"{path} cannot be read ({error.strerror}); CAP_DAC_READ_SEARCH is needed", None)
    reason, present = None, []
    for field in program.fields:
        place = found.get(field.name)
        if place != (field.offset, field.size) and reason is None:
            wanted = (field.offset, field.size)
            reason = f"{category}:{event} has {field.name} at (offset, size) {place}, compiled for {wanted}"
        if place is None or place[1] not in _TYPES:
            return Layout(reason, None)
        present.append(replace(field, offset=place[0], size=place[1]))
    return Layout(reason, tuple(present))


def mismatch(program: Program, tracefs: StrPath | None) -> str | None:
    """Why the compiled object's program must be left out on this kernel; None when it fits."""
    return layout(program, tracefs).reason


def defines(fields: Iterable[TracepointField]) -> dict[str, str]:
    """Names and values for bcc's -D. Of two tracepoints that share a macro the last one given decides."""
    found: dict[str, str] = {}
    for field in fields:
        found[f"OFF_{field.macro}"] = str(field.offset)
        found[f"TYPE_{field.macro}"] = _TYPES[field.size]
    return found
