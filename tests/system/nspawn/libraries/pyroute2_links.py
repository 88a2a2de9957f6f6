"""The kernel's list of links."""

from pyroute2 import IPRoute

with IPRoute() as route:
    assert route.link_lookup(ifname="lo") == [1]
