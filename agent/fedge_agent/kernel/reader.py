"""Reads the pinned maps. Needs no capability: the pins' file modes decide (see `programs.Access`)."""

import ctypes
import errno
import os
import struct
import time
from pathlib import Path
from typing import Self

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.errors import BpfCallError
from fedge_agent.kernel.policy_records import BUDGET, Budget
from fedge_agent.kernel.records import HISTOGRAM_SLOTS, PEER_SLOTS, Counter, Denial, MachineCounter

_MAX_WAITING_DENIALS = 4096


class MapReader:
    """The maps of one pin directory, opened when first read; those that are missing raise BpfCallError each time."""

    def __init__(self, pin_dir: Path) -> None:
        self._pin_dir = pin_dir
        self._descriptors: dict[str, int] = {}
        self._cpus = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptors back."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def unreadable(self, name: str) -> str | None:
        """Why the map cannot be read here; None when it can."""
        try:
            self._open(name)
        except BpfCallError as error:
            return str(error)
        return None

    def network(self) -> dict[Counter, int]:
        """Totals of the admission programs since they were attached."""
        self._cpus = self._cpus or libbpf.possible_cpus()
        totals = (ctypes.c_uint64 * (len(Counter) * self._cpus))()
        result = libbpf.library().bpf_map_lookup_elem(self._open("fedge_count"), bytes(4), totals)
        libbpf.checked(result, "cannot read map fedge_count")
        return {counter: sum(totals[counter :: len(Counter)]) for counter in Counter}

    def machine(self) -> dict[MachineCounter, int]:
        """Totals of the telemetry programs."""
        totals = self._sums("fedge_tel", len(MachineCounter))
        return {counter: totals[counter] for counter in MachineCounter}

    def run_queue(self) -> tuple[int, ...]:
        """(32,) counts of run-queue latency by log2 us; stands still while the scheduler probes are off."""
        return self._sums("fedge_runq", HISTOGRAM_SLOTS)

    def block(self) -> tuple[int, ...]:
        """(32,) counts of block I/O latency by log2 us."""
        return self._sums("fedge_blk", HISTOGRAM_SLOTS)

    def srtt(self) -> tuple[int, ...]:
        """(32,) counts of smoothed round-trip times of the agent's TCP connections by log2 us, one an update."""
        return self._sums("fedge_srtt", HISTOGRAM_SLOTS)

    def peers(self) -> tuple[int, ...]:
        """(256,) when a peer of each slot was last met, CLOCK_MONOTONIC ns; 0 never. See `peers.count`."""
        return self._values("fedge_peers", PEER_SLOTS, each=1)

    def budget(self) -> Budget | None:
        """What is left of the day's bytes; None where none are counted."""
        held = Budget.decode(libbpf.lookup(self._open("fedge_budget"), bytes(4), BUDGET.size, "fedge_budget"))
        return held if held.limit_bytes else None

    def switch_scheduler_probes(self, *, on: bool) -> None:
        """Lets the scheduler probes count from now on, or return at once (their state when idle)."""
        since_ns = time.monotonic_ns() if on else 0
        descriptor = self._open("fedge_on", read_only=False)
        result = libbpf.library().bpf_map_update_elem(descriptor, bytes(4), struct.pack("=Q", since_ns), 0)
        libbpf.checked(result, "cannot switch the scheduler probes")

    def scheduler_probes_on(self) -> bool:
        """Whether they count."""
        value = ctypes.create_string_buffer(8)
        descriptor = self._open("fedge_on", read_only=False)
        libbpf.checked(libbpf.library().bpf_map_lookup_elem(descriptor, bytes(4), value), "cannot read fedge_on")
        return value.raw != bytes(8)

    def _open(self, name: str, *, read_only: bool = True) -> int:
        if name not in self._descriptors:
            self._descriptors[name] = libbpf.open_pin(self._pin_dir / name, read_only=read_only)
        return self._descriptors[name]

    def _sums(self, name: str, slots: int) -> tuple[int, ...]:
        """All `slots` of a per-CPU array of u64, each summed over the CPUs."""
        self._cpus = self._cpus or libbpf.possible_cpus()
        return self._values(name, slots, each=self._cpus)

    def _values(self, name: str, slots: int, *, each: int) -> tuple[int, ...]:
        """All `slots` of an array, each the sum of `each` u64, in one system call."""
        descriptor = self._open(name)
        keys = (ctypes.c_uint32 * slots)()
        values = (ctypes.c_uint64 * (slots * each))()
        count, position = ctypes.c_uint32(slots), ctypes.c_uint32()
        result = libbpf.library().bpf_map_lookup_batch(
            descriptor, None, ctypes.byref(position), keys, values, ctypes.byref(count), None
        )
        if result < 0 and ctypes.get_errno() != errno.ENOENT:  # ENOENT: that was the last
            raise BpfCallError(f"cannot read map {name}", ctypes.get_errno())
        sums = [0] * slots
        for index in range(count.value):
            start = index * each
            sums[keys[index]] = sum(values[start : start + each])
        return tuple(sums)


class DenialStream:
    """The denial events of one pin directory. `fileno` is readable when events wait: give it to `loop.add_reader`."""

    def __init__(self, pin_dir: Path) -> None:
        self._lib = libbpf.library()
        self._waiting: list[Denial] = []
        self.malformed = 0
        self._callback = libbpf.RingCallback(self._take)
        self._map_fd = libbpf.open_pin(pin_dir / "fedge_deny")
        try:
            ring = self._lib.ring_buffer__new(self._map_fd, self._callback, None, None)
            self._ring = libbpf.pointer(ring, "cannot open the denial ring")
        except BpfCallError:
            os.close(self._map_fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the ring back; the kernel keeps what was not taken."""
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            os.close(self._map_fd)
            self._ring = 0

    def fileno(self) -> int:
        """An epoll descriptor for the event loop."""
        return libbpf.checked(self._lib.ring_buffer__epoll_fd(self._ring), "no descriptor of the denial ring")

    def take(self) -> tuple[Denial, ...]:
        """All events that wait, oldest first. Never blocks."""
        libbpf.checked(self._lib.ring_buffer__consume(self._ring), "cannot read the denial ring")
        taken, self._waiting = tuple(self._waiting), []
        return taken

    def _take(self, _context: int, data: int, size: int) -> int:
        try:
            self._waiting.append(Denial.decode(ctypes.string_at(data, size)))
        except ValueError:
            self.malformed += 1
        # A ring holds at most 1400 records, but a writer may go on while we read.
        return -errno.EAGAIN if len(self._waiting) >= _MAX_WAITING_DENIALS else 0
