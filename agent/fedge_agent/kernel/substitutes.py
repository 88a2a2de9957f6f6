"""What /proc tells when a BPF program cannot: coarser, and named as such wherever it is used."""

import dataclasses
from pathlib import Path

MISSING_ERRORS = (OSError, ValueError, IndexError, KeyError)
_LEAST_PRIORITY = 39  # field 18 of /proc/<pid>/stat of a nice-19 task
_NO_DISKS = ("loop", "ram", "zram")


@dataclasses.dataclass(frozen=True, slots=True)
class Mean:
    """A sum and a count, both monotonic; their deltas give a mean over a window."""

    total_us: float
    count: int

    def since(self, before: "Mean") -> float | None:
        """The mean in us over the window; None when nothing happened or the totals went back (a process ended)."""
        count = self.count - before.count
        total = self.total_us - before.total_us
        return total / count if count > 0 and total >= 0 else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def forks(root: Path = Path("/")) -> int | None:
    """Processes created since boot (/proc/stat), for execs."""
    try:
        return next(
            int(line.split()[1]) for line in _text(root / "proc/stat").splitlines() if line.startswith("processes ")
        )
    except (*MISSING_ERRORS, StopIteration):
        return None


def retransmits(root: Path = Path("/")) -> int | None:
    """TCP segments sent again since boot (/proc/net/snmp) in this network namespace."""
    try:
        names, values = (line.split() for line in _text(root / "proc/net/snmp").splitlines() if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])
    except MISSING_ERRORS:
        return None


def block_io(root: Path = Path("/")) -> Mean | None:
    """Time and number of completed block requests of whole disks (/proc/diskstats), for block latency."""
    total_ms = count = 0
    try:
        for line in _text(root / "proc/diskstats").splitlines():
            fields = line.split()
            device = fields[2]
            whole_disk = (root / "sys/block" / device.replace("/", "!")).exists()
            if not whole_disk or device.startswith(_NO_DISKS):
                continue
            count += int(fields[3]) + int(fields[7])
            total_ms += int(fields[6]) + int(fields[10])
    except MISSING_ERRORS:
        return None
    return Mean(total_ms * 1000.0, count)


def run_queue(root: Path = Path("/")) -> Mean | None:
    """Time waited for a CPU and number of time slices of all other tasks (/proc/<pid>/schedstat).

    None where other users' processes are hidden (hidepid, ProtectProc=): ours alone would say nothing about theirs.
    """
    waited_ns = slices = 0
    seen_init = False
    try:
        entries = list((root / "proc").iterdir())
    except OSError:
        return None
    for entry in entries:
        if not entry.name.isdigit():
            continue
        try:
            priority = int(_text(entry / "stat").rpartition(")")[2].split()[15])
            _, waited, count = _text(entry / "schedstat").split()[:3]
        except MISSING_ERRORS:
            continue  # it ended meanwhile, or is hidden
        seen_init |= entry.name == "1"
        if priority < _LEAST_PRIORITY:
            waited_ns += int(waited)
            slices += int(count)
    return Mean(waited_ns / 1000.0, slices) if seen_init else None
