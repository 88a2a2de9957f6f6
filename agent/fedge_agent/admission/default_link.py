"""Which link the device would use now, from files that a daemon without netlink may read.

Metered is a guess from the interface's name, as a modem driver gives it. Only routes of the main table are seen.
"""

from pathlib import Path

from fedge_agent.kernel.link import METERED_PREFIXES, Route

_NOWHERE = "00000000"
_NOWHERE_V6 = "0" * 32
_RTF_UP = 1
_RTF_REJECT = 0x200


def default_routes(root: Path = Path("/")) -> tuple[Route, ...] | None:
    """The default routes in /proc/net, the preferred one first, none by lo; None: nobody can tell."""
    found = []
    ipv4, ipv6 = _lines(root / "proc/net/route"), _lines(root / "proc/net/ipv6_route")
    if ipv4 is None and ipv6 is None:
        return None
    for line in (ipv4 or [])[1:]:
        fields = line.split()
        if fields[1] == fields[7] == _NOWHERE and int(fields[3], 16) & _RTF_UP:
            found.append((int(fields[6]), "ipv4", fields[0]))
    for line in ipv6 or ():
        fields = line.split()
        if fields[0] == _NOWHERE_V6 and fields[1] == "00" and not int(fields[8], 16) & _RTF_REJECT:
            found.append((int(fields[5], 16), "ipv6", fields[9]))
    return tuple(
        Route(name, family, metric, wireless=_is_wireless(name, root), metered=name.startswith(METERED_PREFIXES))
        for metric, family, name in sorted(found)
        if name != "lo"
    )


def _is_wireless(name: str, root: Path) -> bool:
    place = root / "sys/class/net" / name
    return (place / "wireless").exists() or (place / "phy80211").exists()


def _lines(path: Path) -> list[str] | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
