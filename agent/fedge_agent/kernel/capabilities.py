"""Narrows the loader's capabilities to what it needs, and to none before it reports."""

import ctypes
import enum
import os
from collections.abc import Iterable

from fedge_agent.kernel.errors import BpfCallError
from fedge_agent.kernel.text_files import read_text

_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
_WORD_BITS = 32


class Capability(enum.IntEnum):
    """The five capabilities of `fedge-bpf attach` (linux/capability.h)."""

    CHOWN = 0
    DAC_READ_SEARCH = 2
    NET_ADMIN = 12
    PERFMON = 38
    BPF = 39


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_only(wanted: Iterable[Capability]) -> None:
    """Gives up, for good, every capability of this thread but `wanted`; no later exec regains any.

    Raises:
        BpfCallError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_VERSION_3, 0)
    data = (_Data * 2)()
    if libc.capget(ctypes.byref(header), ctypes.byref(data)):
        raise BpfCallError("capget", ctypes.get_errno())
    masks = [0, 0]
    for capability in wanted:
        masks[capability // _WORD_BITS] |= 1 << capability % _WORD_BITS
    for word, mask in zip(data, masks, strict=True):
        word.permitted &= mask
        word.effective = word.permitted
        word.inheritable = 0
    if libc.capset(ctypes.byref(header), ctypes.byref(data)):
        raise BpfCallError("capset", ctypes.get_errno())
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise BpfCallError("prctl(PR_SET_NO_NEW_PRIVS)", ctypes.get_errno())


def effective() -> int:
    """The effective capabilities of this process as a bit mask."""
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise BpfCallError(f"no CapEff in /proc/{os.getpid()}/status", 0)
