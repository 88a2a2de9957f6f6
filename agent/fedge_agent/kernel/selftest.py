"""Proves from inside the agent's cgroup that forbidden peers are refused. Non-blocking, needs no capability."""

import dataclasses
import enum
import errno
import socket
from collections.abc import Callable

# Loopback addresses that no sane policy allows; port 9 is "discard". Nothing leaves the machine even when unguarded.
_FORBIDDEN_V4 = ("127.255.255.254", 9)
_FORBIDDEN_V6 = ("::1", 9)


class Verdict(enum.Enum):
    """What became of one forbidden attempt."""

    DENIED = "denied"
    ADMITTED = "admitted"
    UNTESTED = "untested"


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, e.g. `tcp4 connect`, and the error the kernel gave."""

    name: str
    verdict: Verdict
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class SelfTest:
    """All attempts of one run, and by how much the kernel's own count of refusals rose (None: not readable)."""

    attempts: tuple[Attempt, ...]
    counted: int | None

    @property
    def enforced(self) -> bool:
        """Every attempt that could be made was refused, and, where the counter can be read, by our programs."""
        tested = [a for a in self.attempts if a.verdict is not Verdict.UNTESTED]
        refused = bool(tested) and all(a.verdict is Verdict.DENIED for a in tested)
        # A firewall may answer EPERM too; only the counter tells whose it was.
        return refused and (self.counted is None or self.counted >= len(tested))

    @property
    def detail(self) -> str:
        """One line for the health report."""
        attempts = ", ".join(f"{a.name}: {a.detail}" for a in self.attempts)
        return attempts if self.counted is None else f"{attempts}; {self.counted} counted by the kernel"


def _attempt(name: str, family: socket.AddressFamily, kind: socket.SocketKind, address: tuple[str, int]) -> Attempt:
    try:
        with socket.socket(family, kind) as probe:
            probe.settimeout(0)
            try:
                if kind is socket.SOCK_DGRAM:
                    probe.sendto(b"", address)
                else:
                    probe.connect(address)
            except OSError as error:
                return Attempt(name, _verdict(error.errno), errno.errorcode.get(error.errno or 0, str(error)))
            return Attempt(name, Verdict.ADMITTED, "no error")
    except OSError as error:  # no such address family on this machine
        return Attempt(name, Verdict.UNTESTED, errno.errorcode.get(error.errno or 0, str(error)))


def _verdict(number: int | None) -> Verdict:
    if number == errno.EPERM:
        return Verdict.DENIED
    if number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
        return Verdict.UNTESTED
    return Verdict.ADMITTED  # EINPROGRESS, ECONNREFUSED: it got past the hook


def run_selftest(refusals: Callable[[], int] | None = None) -> SelfTest:
    """Attempts TCP and UDP over IPv4 and IPv6 to forbidden loopback addresses; takes well under a millisecond.

    Args:
        refusals: the kernel's present total of refusals, to prove that it was our programs.
    """
    before = refusals() if refusals else 0
    attempts = (
        _attempt("tcp4 connect", socket.AF_INET, socket.SOCK_STREAM, _FORBIDDEN_V4),
        _attempt("tcp6 connect", socket.AF_INET6, socket.SOCK_STREAM, _FORBIDDEN_V6),
        _attempt("udp4 sendmsg", socket.AF_INET, socket.SOCK_DGRAM, _FORBIDDEN_V4),
        _attempt("udp6 sendmsg", socket.AF_INET6, socket.SOCK_DGRAM, _FORBIDDEN_V6),
    )
    return SelfTest(attempts, refusals() - before if refusals else None)
