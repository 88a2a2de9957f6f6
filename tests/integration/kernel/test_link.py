import json
import os
import shutil
import subprocess
import sys

import pytest

from fedge_agent.kernel.link import Route, default_routes, describe

IP = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace; run as root")
@pytest.mark.skipif(IP is None, reason="needs ip; apt install iproute2")
def test_the_default_routes_of_a_namespace_are_found_the_preferred_one_first():
    commands = [
        "link add wwan0 type veth peer name far0",
        "link add lan0 type veth peer name far1",
        *(f"link set {name} up" for name in ("wwan0", "far0", "lan0", "far1")),
        "addr add 192.0.2.1/24 dev lan0",
        "addr add 198.51.100.1/24 dev wwan0",
        "route add default via 198.51.100.2 dev wwan0 metric 700",
        "route add default via 192.0.2.2 dev lan0 metric 100",
    ]
    steps = " && ".join(f"{IP} {command}" for command in commands)
    script = f"{steps} && exec {sys.executable} -m fedge_agent.kernel.link"
    told = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert [(r["interface"], r["family"], r["metric"], r["metered"]) for r in json.loads(told)] == [
        ("lan0", "ipv4", 100, False),
        ("wwan0", "ipv4", 700, True),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace; run as root")
@pytest.mark.skipif(IP is None, reason="needs ip; apt install iproute2")
def test_the_daemon_without_netlink_sees_the_same_default_routes():
    """The unit forbids AF_NETLINK, so what it knows comes from /proc/net."""
    commands = [
        "link add wlan0 type veth peer name far0",
        "link add eth0 type veth peer name far1",
        *(f"link set {name} up" for name in ("wlan0", "far0", "eth0", "far1")),
        "addr add 192.0.2.1/24 dev eth0",
        "-6 addr add 2001:db8::1/64 dev wlan0 nodad",
        "route add default via 192.0.2.2 dev eth0 metric 600",
        "-6 route add default via 2001:db8::2 dev wlan0 metric 300",
    ]
    both = (
        "import json, msgspec; from fedge_agent.admission import default_link; from fedge_agent.kernel import link;"
        "print(json.dumps([msgspec.to_builtins(of()) for of in (default_link.default_routes, link.default_routes)]))"
    )
    script = " && ".join([*(f"{IP} {command}" for command in commands), f'exec {sys.executable} -c "{both}"'])
    told = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True).stdout
    seen, asked = json.loads(told)
    assert seen == asked
    assert [route["interface"] for route in seen] == ["wlan0", "eth0"]


def test_asking_leaves_the_asking_process_without_pyroute2():
    script = "import sys; from fedge_agent.kernel import link; link.default_routes(); print('pyroute2' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "False"


def test_a_route_is_described_in_one_line():
    routes = (Route("eth0", "ipv4", 0, wireless=False, metered=False),)
    assert describe(routes) == "eth0 (ipv4, wired)"
    assert isinstance(default_routes(), tuple)
