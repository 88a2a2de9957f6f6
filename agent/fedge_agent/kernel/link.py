"""Which link the device would use, asked of rtnetlink for `doctor` by a process of its own: pyroute2 costs 33 MB.

`python -m fedge_agent.kernel.link` prints the default routes as JSON. Metered is a guess from the interface's name and
kind, as a modem driver names it; NetworkManager may know better.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

METERED_PREFIXES: Final = ("wwan", "ppp", "rmnet", "cdc", "usb")
_TIMEOUT_S: Final = 10.0
_FAMILIES: Final = {2: "ipv4", 10: "ipv6"}


class LinkError(Exception):
    """The links cannot be listed; the message says why."""


class Route(msgspec.Struct, frozen=True):
    """One default route. A lower `metric` is preferred."""

    interface: str
    family: str
    metric: int
    wireless: bool
    metered: bool


def default_routes() -> tuple[Route, ...]:
    """The default routes of this network namespace, the preferred one first; asked by a short-lived process.

    Raises:
        LinkError: pyroute2 is missing, or the kernel gave no answer.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fedge_agent.kernel.link"],
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(str(error)) from None
    if done.returncode != 0:
        raise LinkError(
            done.stderr.decode(errors="replace").strip().splitlines()[-1:][0] if done.stderr else "no answer"
        )
    try:
        return msgspec.json.decode(done.stdout, type=tuple[Route, ...])
    except msgspec.DecodeError as error:
        raise LinkError(str(error)) from None


def _ask_kernel(root: Path = Path("/")) -> list[Route]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - only this process pays for it

    with IPRoute() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        found = []
        for family in _FAMILIES:
            for route in netlink.get_routes(family=family):
                name = names.get(route.get_attr("RTA_OIF"))
                if route["dst_len"] == 0 and name is not None and route.get_attr("RTA_DST") is None:
                    found.append(_route(name, family, route, root))
    return sorted(found, key=lambda route: (route.metric, route.family, route.interface))


def _route(name: str, family: int, route: Any, root: Path) -> Route:
    return Route(
        interface=name,
        family=_FAMILIES[family],
        metric=route.get_attr("RTA_PRIORITY") or 0,
        wireless=(root / "sys/class/net" / name / "wireless").exists(),
        metered=name.startswith(METERED_PREFIXES),
    )


def describe(routes: tuple[Route, ...]) -> str:
    """One line for people."""
    return "; ".join(
        f"{r.interface} ({r.family}, {'wireless' if r.wireless else 'wired'}{', metered' if r.metered else ''})"
        for r in routes
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(msgspec.to_builtins(_ask_kernel())) + "\n")
