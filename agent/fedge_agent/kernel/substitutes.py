"""What /proc tells when a BPF program cannot: coarser, and named as such wherever it is used."""

import dataclasses
import ipaddress
import os
import socket
import stat
import sys
from pathlib import Path

MISSING_ERRORS = (OSError, ValueError, IndexError, KeyError)
# Fields of /proc/<pid>/stat, counted from the one after the command.
_PRIORITY = 15
_START_TICKS = 19
_MAX_STAT_BYTES = 4096
_LEAST_PRIORITY = 39  # a nice-19 task
# Fields and states of /proc/net/tcp.
_TCP_STATE = 3
_SPEAKING = ("01", "02")  # ESTABLISHED, SYN_SENT
_MAX_TABLE_BYTES = 4 * 1024 * 1024
# struct tcp_info (linux/tcp.h): tcpi_state is its first byte, tcpi_rtt stands at 68.
_TCP_INFO_BYTES, _TCP_INFO_RTT, _ESTABLISHED = 104, 68, b"\x01"
_NO_DISKS = ("loop", "ram", "zram")


@dataclasses.dataclass(frozen=True, slots=True)
class Mean:
    """A sum and a count, both monotonic; their deltas give a mean over a window."""

    total_us: float
    count: int

    def since(self, before: "Mean") -> float | None:
        """The mean in us over the window; None when nothing happened or the totals went back (a disk left)."""
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


def tcp(name: str, root: Path = Path("/")) -> int | None:
    """A TCP total of this network namespace (/proc/net/snmp): RetransSegs, ActiveOpens."""
    try:
        names, values = (line.split() for line in _text(root / "proc/net/snmp").splitlines() if line.startswith("Tcp:"))
        return int(values[names.index(name)])
    except MISSING_ERRORS:
        return None


def memory_events(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Direct reclaims (allocstall_*) and OOM kills since boot (/proc/vmstat)."""
    try:
        pairs = [line.split() for line in _text(root / "proc/vmstat").splitlines()]
        totals = {name: int(value) for name, value in pairs if name == "oom_kill" or name.startswith("allocstall")}
    except MISSING_ERRORS:
        return None, None
    stalls = [value for name, value in totals.items() if name != "oom_kill"]
    return sum(stalls) if stalls else None, totals.get("oom_kill")


def peers(root: Path = Path("/")) -> int | None:
    """Distinct addresses that TCP connections of this network namespace go to now, without loopback."""
    found: set[str] = set()
    read = 0
    for name in ("tcp", "tcp6"):
        try:
            with (root / "proc/net" / name).open(encoding="ascii", errors="replace") as table:
                lines = table.read(_MAX_TABLE_BYTES).splitlines()[1:]
            read += 1
            rows = [line.split() for line in lines]
            found |= {
                row[2].partition(":")[0] for row in rows if len(row) > _TCP_STATE and row[_TCP_STATE] in _SPEAKING
            }
        except OSError:
            continue
    try:
        return sum(not _is_loopback(address) for address in found) if read else None
    except ValueError:
        return None


def _is_loopback(written: str) -> bool:
    """Of an address as /proc/net/tcp writes it: each word of four bytes as a number of this machine."""
    words = (int(written[place : place + 8], 16) for place in range(0, len(written), 8))
    address = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def own_srtt_us() -> float | None:
    """The longest smoothed round-trip time of this process's own TCP connections now (TCP_INFO); None without any."""
    longest = None
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names are what is wanted
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as one:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            continue  # none of TCP, or closed meanwhile
        rtt_us = int.from_bytes(info[_TCP_INFO_RTT : _TCP_INFO_RTT + 4], sys.byteorder)
        if info[:1] == _ESTABLISHED and rtt_us:
            longest = max(longest or 0.0, float(rtt_us))
    return longest


Traffic = tuple[int, int, int, int]
"""Bytes and packets out, bytes and packets in."""


def traffic(root: Path = Path("/")) -> Traffic | None:
    """What all interfaces but lo have carried (/proc/net/dev) in this network namespace."""
    out_bytes = out_packets = in_bytes = in_packets = 0
    try:
        for line in _text(root / "proc/net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            if name.strip() == "lo":
                continue
            fields = [int(word) for word in rest.split()]
            in_bytes, in_packets = in_bytes + fields[0], in_packets + fields[1]
            out_bytes, out_packets = out_bytes + fields[8], out_packets + fields[9]
    except MISSING_ERRORS:
        return None
    return out_bytes, out_packets, in_bytes, in_packets


def machine_queue(root: Path = Path("/")) -> Mean | None:
    """Time that all tasks have waited for a CPU, and how often they ran (/proc/schedstat): one cheap read."""
    waited_ns = slices = 0
    try:
        for line in _text(root / "proc/schedstat").splitlines():
            if line.startswith("cpu"):
                fields = line.split()
                waited_ns, slices = waited_ns + int(fields[8]), slices + int(fields[9])
    except MISSING_ERRORS:
        return None
    return Mean(waited_ns / 1000.0, slices) if slices else None


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


Waits = dict[tuple[int, int], tuple[int, int]]
"""(process id, start time in ticks) -> (ns waited for a CPU, number of time slices), both since the process began."""


def run_queue(root: Path = Path("/"), known: Waits | None = None) -> Waits | None:
    """What each task other than nice-19 ones has waited for a CPU (/proc/<pid>/schedstat, main threads).

    None where other users' processes are hidden (hidepid, ProtectProc=): ours alone would say nothing about theirs.

    Args:
        root: of the file system.
        known: the reading before this one. Of a task that has not run since, only the short file is read again.
    """
    folder = str(root / "proc")
    former = {pid: (start, totals) for (pid, start), totals in (known or {}).items()}
    waits: Waits = {}
    try:
        pids = [int(name) for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208 - as below
    except OSError:
        return None
    for pid in pids:
        try:
            _, waited_ns, slices = (int(word) for word in _bytes(f"{folder}/{pid}/schedstat").split()[:3])
            start_ticks, totals = former.get(pid, (0, None))
            if totals != (waited_ns, slices):
                fields = _bytes(f"{folder}/{pid}/stat").rpartition(b")")[2].split()
                if int(fields[_PRIORITY]) >= _LEAST_PRIORITY:
                    continue
                start_ticks = int(fields[_START_TICKS])
            waits[pid, start_ticks] = waited_ns, slices
        except MISSING_ERRORS:
            continue  # it ended meanwhile, or is hidden
    return waits if any(pid == 1 for pid, _ in waits) else None


def _bytes(path: str) -> bytes:
    """A short file, several times as fast as pathlib reads it: there are hundreds of them a window."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_STAT_BYTES)
    finally:
        os.close(descriptor)


def mean_wait_us(before: Waits, now: Waits) -> float | None:
    """The mean wait for a CPU between two readings, over the tasks that live at the end; None when none ran."""
    waited_ns = slices = 0
    for task, (task_waited_ns, task_slices) in now.items():
        old_waited_ns, old_slices = before.get(task, (0, 0))
        waited_ns += task_waited_ns - old_waited_ns
        slices += task_slices - old_slices
    return waited_ns / 1000.0 / slices if slices > 0 else None
