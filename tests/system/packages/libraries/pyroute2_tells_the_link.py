"""pyroute2: what the agent asks the kernel: which link the default route takes, by netlink."""

import pyroute2
from pyroute2 import IPRoute

assert str(pyroute2.__file__).startswith("/usr/lib/fedge/")
with IPRoute() as netlink:
    netlink.link("add", ifname="fedge-a", kind="veth", peer="fedge-b")
    (index,) = netlink.link_lookup(ifname="fedge-a")
    try:
        netlink.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        netlink.link("set", index=index, state="up")
        addresses = [dict(found["attrs"])["IFA_ADDRESS"] for found in netlink.get_addr(index=index, family=2)]
        routes = [dict(found["attrs"]).get("RTA_DST") for found in netlink.get_routes(oif=index, family=2)]
    finally:
        netlink.link("del", index=index)
assert addresses == ["192.0.2.1"]
assert "192.0.2.0" in routes
