"""What processes cost, from /proc: CPU time of a process and its children, memory of a group of processes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


@dataclass(frozen=True)
class Memory:
    """Of a group of processes, in bytes.

    Attributes:
        alone: as if no other process shared a file with them; see `alone_bytes`.
        pss: the sum of their proportional set sizes; flattered by whatever else here maps the same files.
        rss: the sum of their resident set sizes: what they share counts twice.
        anonymous: what belongs to no file and can never be dropped.
        peak: the sum of each one's largest resident set so far.
    """

    alone: int
    pss: int
    rss: int
    anonymous: int
    peak: int


def memory(pids: Iterable[int]) -> Memory:
    """The memory of some processes now.

    Raises:
        PermissionError: the processes are not dumpable, and this is not root.
    """
    group = list(pids)
    totals = [_rollup(pid) for pid in group]
    return Memory(
        alone=alone_bytes(group),
        pss=sum(total["Pss"] for total in totals),
        rss=sum(total["Rss"] for total in totals),
        anonymous=sum(total["Anonymous"] for total in totals),
        peak=sum(_status(pid, "VmHWM") for pid in group),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, of its children that it has waited for, and of those that run; 0 when it is gone.

    The kernel counts in ticks of 10 ms: take differences over many processes or many rounds.
    """
    return _own_seconds(pid, waited=True) + sum(_own_seconds(child, waited=False) for child in children(pid))


def scheduled_seconds(pids: Iterable[int]) -> float:
    """CPU time of the living threads of some processes, to the nanosecond: for those that hardly run."""
    files = [task for pid in pids for task in (_PROC / str(pid) / "task").glob("*/schedstat")]
    return sum(int(task.read_text().split()[0]) for task in files) / 1e9


def machine_seconds() -> float:
    """CPU time that all processes of this machine, and its kernel, have used since it started."""
    fields = (_PROC / "stat").read_text().split(maxsplit=9)[1:9]  # user nice system idle iowait irq softirq steal
    return sum(int(ticks) for number, ticks in enumerate(fields) if number not in {3, 4}) / _TICKS_PER_S


def children(pid: int) -> list[int]:
    """Process ids of the children that a process has now."""
    try:
        found = [task.read_text().split() for task in (_PROC / str(pid) / "task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for task in found for child in task]


def family(pid: int) -> list[int]:
    """A process, its children, and theirs."""
    return [pid, *(member for child in children(pid) for member in family(child))]


def alone_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes as if no other process shared a file with them: what they cost a device of their own.

    Anonymous memory counts in full; of a part of a file that several of them map, the largest resident part counts
    once. It is the sum of their proportional set sizes on a machine where nothing else runs Python.

    Raises:
        PermissionError: the processes are not dumpable, and this is not root.
    """
    anonymous, files = 0, dict[tuple[str, str], int]()
    for pid in pids:
        for name, sizes in _mappings(pid):
            own = sizes.get("Anonymous", 0)
            anonymous += own
            files[name] = max(files.get(name, 0), sizes["Rss"] - own)
    return (anonymous + sum(files.values())) * _KIB


def pss_bytes(pid: int) -> int:
    """Proportional set size; flattered by whatever else maps the same files.

    Raises:
        PermissionError: as above.
    """
    return _rollup(pid)["Pss"]


def written_bytes(pid: int) -> int:
    """What a process has made the kernel write to a block device, without the file system's own journal."""
    fields = dict(line.split(": ") for line in (_PROC / str(pid) / "io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def largest_mappings(pid: int, count: int = 8) -> dict[str, int]:
    """The files, and anonymous memory, that a process has most of resident, in bytes."""
    sizes: dict[str, int] = {}
    for (name, _), found in _mappings(pid):
        key = Path(name).name or "anonymous"
        sizes[key] = sizes.get(key, 0) + found["Rss"] * _KIB
    return dict(sorted(sizes.items(), key=lambda item: -item[1])[:count])


def _rollup(pid: int) -> dict[str, int]:
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * _KIB for name, _, rest in (line.partition(":") for line in lines)}


def _status(pid: int, name: str) -> int:
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{name}:")), 0)


def _own_seconds(pid: int, *, waited: bool) -> float:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()  # from the third on: proc(5)
    return sum(int(ticks) for ticks in fields[11 : 15 if waited else 13]) / _TICKS_PER_S


def _mappings(pid: int) -> Iterable[tuple[tuple[str, str], dict[str, int]]]:
    """Each mapping's (path, offset) and its sizes in KiB."""
    name, sizes = ("", ""), dict[str, int]()
    for line in (_PROC / str(pid) / "smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            if sizes:
                yield name, sizes
            name, sizes = (rest[4] if len(rest) == 5 else "", rest[1]), {}
        elif rest and rest[-1] == "kB":
            sizes[first[:-1]] = int(rest[0])
    if sizes:
        yield name, sizes
