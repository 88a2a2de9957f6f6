"""Which link the device would use now: a cheap look at the routes, netlink only where that leaves doubt.

Asking netlink (`fedge_agent.kernel.link`) takes a process of its own with pyroute2, half a second of CPU. A default
route over plain Ethernet needs no asking, and no answer is asked for twice while the routes stay the same.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from fedge_agent.kernel.link import METERED_PREFIXES, LinkError, Route, default_routes

_log = logging.getLogger(__name__)
_ETHERNET = "1"  # ARPHRD_ETHER
_NOWHERE = "00000000"
_NOWHERE_V6 = "0" * 32
_RTF_UP = 1
_RTF_REJECT = 0x200


def default_interfaces(root: Path = Path("/")) -> tuple[str, ...]:
    """Names of the interfaces with a default route, without repeats, IPv4 first."""
    found: dict[str, None] = {}
    for line in _lines(root / "proc/net/route")[1:]:
        fields = line.split()
        if fields[1] == fields[7] == _NOWHERE and int(fields[3], 16) & _RTF_UP:
            found[fields[0]] = None
    for line in _lines(root / "proc/net/ipv6_route"):
        fields = line.split()
        if fields[0] == _NOWHERE_V6 and fields[1] == "00" and not int(fields[8], 16) & _RTF_REJECT:
            found[fields[9]] = None
    found.pop("lo", None)
    return tuple(found)


def plainly_wired(name: str, root: Path = Path("/")) -> bool:
    """Whether an interface is Ethernet, by a name that no modem has, and not wireless."""
    place = root / "sys/class/net" / name
    kind = "".join(_lines(place / "type"))
    wireless = (place / "wireless").exists() or (place / "phy80211").exists()
    return kind == _ETHERNET and not wireless and not name.startswith(METERED_PREFIXES)


class LinkWatch:
    """The default link, as far as it is known.

    Args:
        ask: as `default_routes`; called in a thread.
    """

    def __init__(self, *, root: Path = Path("/"), ask: Callable[[], tuple[Route, ...]] = default_routes) -> None:
        self._root = root
        self._ask = ask
        self._interfaces: tuple[str, ...] | None = None
        self._asking: asyncio.Task[None] | None = None
        self.route: Route | None = None
        self.known = False

    def look(self) -> None:
        """Notices changed routes; an answer that must be asked for comes in later, meanwhile `known` is False."""
        interfaces = default_interfaces(self._root)
        if interfaces == self._interfaces:
            return
        self.close()
        self._interfaces = interfaces
        if all(plainly_wired(name, self._root) for name in interfaces):
            first = interfaces[:1]
            self.route = Route(first[0], "", 0, wireless=False, metered=False) if first else None
            self.known = True
            return
        self.known = False
        self._asking = asyncio.get_running_loop().create_task(self._find_out())

    def close(self) -> None:
        """Stops asking."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if not self.known:
            self._interfaces = None  # the next look asks again

    async def _find_out(self) -> None:
        try:
            routes = await asyncio.to_thread(self._ask)
        except LinkError as error:
            _log.warning("the link cannot be told: %s", error)
            self._interfaces = None  # ask again
            return
        self.route = routes[0] if routes else None
        self.known = True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
