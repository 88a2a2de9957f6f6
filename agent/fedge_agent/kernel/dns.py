"""Host names to addresses with the time for which the answer holds, by glibc alone.

`getaddrinfo` tells no TTL. glibc's own stub resolver does: `res_search` asks (resolv.conf, time-outs, TCP for long
answers), `ns_initparse` and `ns_parserr` take the answer apart, bounds checked. Both stand in `libresolv.so.2`, a part
of libc6, so the loader needs nothing beyond the standard library. What is not in the DNS (a line of /etc/hosts, mDNS)
comes from `getaddrinfo`, without a TTL.

An answer is hostile until it is bounded: at most `MOST_ADDRESSES`, none that is no unicast peer on a network, none of a
private network beside public ones.
"""

import ctypes
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fedge_agent.kernel.allowlist import Resolve, resolve_by_system
from fedge_agent.kernel.errors import NameUnknownError, ResolverError
from fedge_agent.kernel.frozen import dataclass
from fedge_agent.kernel.records import Address

MOST_ADDRESSES: Final = 16
_MOST_RECORDS: Final = 64
_MOST_ANSWER_BYTES: Final = 65_535
_MOST_HOSTS_BYTES: Final = 256 * 1024
_IN: Final = 1
_TYPES: Final = {1: 4, 28: 16}
"""A and AAAA, and how long their data is."""
_CNAME: Final = 5
_ANSWER_SECTION: Final = 1
_HOST_NOT_FOUND, _NO_DATA = 1, 4
_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# A board that starts without a network must learn it in time; glibc's own is 5 s, twice, for each server.
_RES_OPTIONS: Final = "timeout:2 attempts:2"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name stands for.

    Attributes:
        addresses: at least one, in the order of the answer.
        ttl_s: for how long this holds, as the name server says; None: nobody said.
        notes: what of the answer was not believed, for the log.
    """

    addresses: tuple[Address, ...]
    ttl_s: int | None = None
    notes: tuple[str, ...] = ()


class _Message(ctypes.Structure):
    """ns_msg (arpa/nameser.h)."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("id", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("counts", ctypes.c_uint16 * 4),
        ("sections", ctypes.c_void_p * 4),
        ("section", ctypes.c_int),
        ("record", ctypes.c_int),
        ("position", ctypes.c_void_p),
    )


class _Record(ctypes.Structure):
    """ns_rr (arpa/nameser.h)."""

    _fields_ = (
        ("name", ctypes.c_char * 1025),
        ("type", ctypes.c_uint16),
        ("record_class", ctypes.c_uint16),
        ("ttl_s", ctypes.c_uint32),
        ("length", ctypes.c_uint16),
        ("data", ctypes.c_void_p),
    )


def ask(
    name: str,
    *,
    hosts: Path = Path("/etc/hosts"),
    nsswitch: Path = Path("/etc/nsswitch.conf"),
    system: Resolve = resolve_by_system,
) -> Answer:
    """The addresses of a name: /etc/hosts, then the DNS, then whatever else this machine's `getaddrinfo` asks.

    Raises:
        NameUnknownError: there is no such name, or none of its addresses may be believed.
        ResolverError: no resolver answers now.
    """
    listed = _in_hosts(name, hosts)
    if listed:
        return Answer(listed[:MOST_ADDRESSES])
    if _asks_dns(nsswitch):
        try:
            addresses, ttl_s = _by_dns(name)
        except NameUnknownError:
            pass  # mDNS, a container's own names: getaddrinfo has the last word
        else:
            return believed(name, addresses, ttl_s)
    return believed(name, system(name), None)


def believed(name: str, addresses: Iterable[Address], ttl_s: int | None) -> Answer:
    """What may be allowed of an answer from the DNS.

    Raises:
        NameUnknownError: nothing of it.
    """
    found = tuple(dict.fromkeys(addresses))
    peers = tuple(address for address in found if _is_peer(address))
    notes = [f"{name}: {address} is no address of a peer and is left out" for address in found if address not in peers]
    public = tuple(address for address in peers if address.is_global)
    if public and len(public) < len(peers):
        notes.append(f"{name} has public and private addresses; the private ones are left out")
        peers = public
    if len(peers) > MOST_ADDRESSES:
        notes.append(f"{name} has {len(peers)} addresses, the first {MOST_ADDRESSES} are used")
    if not peers:
        shown = ", ".join(map(str, found[:4]))
        raise NameUnknownError(f"host name {name!r} has no address that may be connected to ({shown}); correct its DNS")
    return Answer(peers[:MOST_ADDRESSES], ttl_s, tuple(notes[:MOST_ADDRESSES]))


def _is_peer(address: Address) -> bool:
    """Whether it may be another machine. Loopback is not: only /etc/hosts may say that a name is this machine."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:  # what DNS64 makes of an IPv4 address
            return _is_peer(ipaddress.IPv4Address(address.packed[12:]))
        if address.ipv4_mapped or address.sixtofour or address.teredo:
            return False
    elif address in _THIS_NETWORK:
        return False
    unusable = address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local
    return not unusable and not address.is_reserved


def _by_dns(name: str) -> tuple[list[Address], int | None]:
    library = _library()
    encoded = name.encode("ascii", "replace")
    found: list[Address] = []
    ttls_s: list[int] = []
    failures: list[ResolverError] = []
    for kind in _TYPES:
        buffer = (ctypes.c_ubyte * _MOST_ANSWER_BYTES)()
        length = library.res_search(encoded, _IN, kind, buffer, _MOST_ANSWER_BYTES)
        if length < 0:
            if _why(library) not in (_HOST_NOT_FOUND, _NO_DATA):
                failures.append(ResolverError(f"host name {name!r} cannot be resolved now; try again"))
            continue
        addresses, answer_ttls_s = _records(library, buffer, min(length, _MOST_ANSWER_BYTES), kind)
        found += addresses
        ttls_s += answer_ttls_s
    if not found and failures:
        raise failures[0]
    if not found:
        raise NameUnknownError(f"host name {name!r} is not known; correct it")
    return found, min(ttls_s)


def _records(
    library: ctypes.CDLL, buffer: ctypes.Array[ctypes.c_ubyte], length: int, kind: int
) -> tuple[list[Address], list[int]]:
    """Addresses of one answer, and the TTLs of all its records: an alias may change earlier than what it leads to."""
    message, record = _Message(), _Record()
    if library.ns_initparse(buffer, length, ctypes.byref(message)) < 0:
        return [], []
    found: list[Address] = []
    ttls_s: list[int] = []
    for number in range(min(message.counts[_ANSWER_SECTION], _MOST_RECORDS)):
        if library.ns_parserr(ctypes.byref(message), _ANSWER_SECTION, number, ctypes.byref(record)) < 0:
            break
        if record.record_class != _IN or record.type not in (kind, _CNAME):
            continue
        ttls_s.append(min(record.ttl_s, 0x7FFF_FFFF))
        if record.type == kind and record.length == _TYPES[kind]:
            found.append(ipaddress.ip_address(ctypes.string_at(record.data, record.length)))
    return found, ttls_s


def _library() -> ctypes.CDLL:
    os.environ.setdefault("RES_OPTIONS", _RES_OPTIONS)
    try:
        library = ctypes.CDLL("libresolv.so.2", use_errno=True)
        library.res_search.argtypes = (
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_ubyte),
            ctypes.c_int,
        )
        library.res_search.restype = ctypes.c_int
        library.ns_initparse.argtypes = (ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int, ctypes.POINTER(_Message))
        library.ns_parserr.argtypes = (
            ctypes.POINTER(_Message),
            ctypes.c_int,
            ctypes.c_int,
            ctypes.POINTER(_Record),
        )
    except (OSError, AttributeError) as error:  # no glibc: getaddrinfo serves, without a TTL
        raise NameUnknownError(f"no libresolv.so.2 here ({error})") from error
    return library


def _why(library: ctypes.CDLL) -> int:
    """h_errno of this thread (netdb.h)."""
    place = library["__h_errno_location"]
    place.restype = ctypes.POINTER(ctypes.c_int)
    return int(place().contents.value)


def _in_hosts(name: str, path: Path) -> tuple[Address, ...]:
    wanted = name.rstrip(".").lower()
    found = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_HOSTS_BYTES).splitlines()
    except OSError:
        return ()
    for line in lines:
        words = line.split("#", 1)[0].split()
        if wanted in (word.lower() for word in words[1:]):
            try:
                found.append(ipaddress.ip_address(words[0].split("%")[0]))
            except ValueError:
                continue
    return tuple(dict.fromkeys(found))


def _asks_dns(path: Path) -> bool:
    """Whether this machine resolves host names by the DNS at all; glibc's own default is that it does."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_HOSTS_BYTES).splitlines()
    except OSError:
        return True
    hosts = [line.split("#", 1)[0].split()[1:] for line in lines if line.split(":")[0].strip() == "hosts"]
    return not hosts or bool({"dns", "resolve"} & set(hosts[0]))
