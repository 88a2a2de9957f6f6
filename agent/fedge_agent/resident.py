"""Gives back the memory that only starting, or a round, needed.

Two kinds: free pages of the C library's heap, and pages of program code (mapped from files, never written) that were
run once: imports, key parsing, the TLS handshake. They stay in the page cache for as long as the kernel has room, and
a page that is run again is mapped again by a minor fault, so nothing is read twice and nothing goes to swap.
"""

import ctypes
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

SLACK_BYTES: Final = 2 * 1024 * 1024
_log = logging.getLogger(__name__)
_MADV_DONTNEED: Final = 4
_CODE: Final = "r-xp"
_MAPS: Final = Path("/proc/self/maps")
_STATM: Final = Path("/proc/self/statm")


def give_back() -> None:
    """Trim the heap and unmap idle code pages. A C library without `malloc_trim` is passed over."""
    gc.collect()
    library = ctypes.CDLL(None, use_errno=True)
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        trim(0)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, length in code_mappings(_MAPS.read_text(encoding="utf-8", errors="replace")):
        if library.madvise(start, length, _MADV_DONTNEED) != 0:
            _log.debug("madvise: %s", os.strerror(ctypes.get_errno()))


class IdleMemory:
    """Gives memory back after the start, and whenever a round or a reconnection has left more than idling needs.

    What is resident at the look after memory was given back is what idling needs; more than that by `SLACK_BYTES` is
    worth twenty milliseconds of CPU.
    """

    def __init__(self, resident: Callable[[], int], give_back: Callable[[], None]) -> None:
        self._resident = resident
        self._give_back = give_back
        self._most: int | None = 0

    def look(self) -> None:
        """Call twice a minute or so while there is no round."""
        present = self._resident()
        if self._most is None:
            self._most = present + SLACK_BYTES
        elif present > self._most:
            self._give_back()
            self._most = None


def resident_bytes() -> int:
    """The resident set of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def code_mappings(maps: str) -> list[tuple[int, int]]:
    """(address, length) of each private mapping of a file's code in /proc/PID/maps.

    Only executable mappings that cannot be written: what a process has changed (relocations, data) would be lost.
    """
    found = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == _CODE and fields[4] != "0":  # noqa: PLR2004 - proc(5): inode, path
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end - start))
    return found
