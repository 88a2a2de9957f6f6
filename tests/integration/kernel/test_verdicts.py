"""The verdicts of the packet programs on crafted packets, by BPF_PROG_TEST_RUN: the same of both compilers' builds."""

import ipaddress
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_agent.kernel.allowlist import parse_policy
from fedge_agent.kernel.policy_records import Budget, Rule

PASS, DROP = 1, 0
TCP, UDP, ICMP, HOP_BY_HOP = 6, 17, 1, 0
RULES = (
    "127.0.0.1:18883/tcp",
    "10.0.0.0/8:443/tcp",
    "127.0.0.0/8:15353/udp",
    "[2001:db8::/32]:8883/tcp",
    "[::1]:18883/tcp",
)


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(12) + struct.pack("!H", kind) + payload


def transport(port: int) -> bytes:
    return struct.pack("!HH", 40000, port) + bytes(16)


def ipv4(address: str, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(payload)
    source = ipaddress.IPv4Address("127.0.0.1").packed
    target = ipaddress.IPv4Address(address).packed
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, length, 1, fragment, 64, protocol, 0, source, target)
    return ethernet(0x0800, head + options + payload)


def ipv6(address: str, following: int, payload: bytes) -> bytes:
    target = ipaddress.IPv6Address(address).packed
    head = struct.pack("!IHBB16s16s", 6 << 28, len(payload), following, 64, bytes(16), target)
    return ethernet(0x86DD, head + payload)


MORE_FRAGMENTS = 0x2000
TABLE = {
    "v4 exact": (ipv4("127.0.0.1", TCP, transport(18883)), PASS),
    "v4 other port": (ipv4("127.0.0.1", TCP, transport(18884)), DROP),
    "v4 other protocol": (ipv4("127.0.0.1", UDP, transport(18883)), DROP),
    "v4 other address": (ipv4("127.0.0.2", TCP, transport(18883)), DROP),
    "v4 inside a network": (ipv4("10.200.3.4", TCP, transport(443)), PASS),
    "v4 outside a network": (ipv4("11.0.0.1", TCP, transport(443)), DROP),
    "v4 udp network": (ipv4("127.3.2.1", UDP, transport(15353)), PASS),
    "v4 header with options": (ipv4("127.0.0.1", TCP, transport(18883), options=bytes(8)), PASS),
    "v4 forbidden port behind options": (ipv4("127.0.0.1", TCP, transport(18884), options=bytes(8)), DROP),
    "v4 first fragment": (ipv4("127.3.2.1", UDP, transport(15353), fragment=MORE_FRAGMENTS), PASS),
    "v4 later fragment": (ipv4("127.3.2.1", UDP, transport(15353), fragment=185), DROP),
    "v4 icmp": (ipv4("127.0.0.1", ICMP, transport(18883)), DROP),
    "v4 without its transport header": (ipv4("127.0.0.1", TCP, b""), DROP),
    "v6 exact": (ipv6("::1", TCP, transport(18883)), PASS),
    "v6 other port": (ipv6("::1", TCP, transport(18884)), DROP),
    "v6 other protocol": (ipv6("::1", UDP, transport(18883)), DROP),
    "v6 inside a network": (ipv6("2001:db8:5::7", TCP, transport(8883)), PASS),
    "v6 outside a network": (ipv6("2001:db9::7", TCP, transport(8883)), DROP),
    "v6 extension header": (ipv6("::1", HOP_BY_HOP, bytes((TCP, 0, 1, 4, 0, 0, 0, 0)) + transport(18883)), DROP),
    "neither v4 nor v6": (ethernet(0x0806, bytes(60)), DROP),
}


@pytest.mark.parametrize("name", TABLE)
def test_egress_gives_the_verdict_of_the_table(admission, name):
    admission.follow(*RULES)
    frame, expected = TABLE[name]
    assert admission.verdict("fedge_egress", frame)[0] == expected


def test_an_empty_policy_lets_nothing_out(admission):
    admission.follow()
    assert all(admission.verdict("fedge_egress", frame)[0] == DROP for frame, _ in TABLE.values())


def test_ingress_lets_everything_in(admission):
    assert all(admission.verdict("fedge_ingress", frame)[0] == PASS for frame, _ in TABLE.values())


LARGE = 1000
ALLOWED_PEER = ("127.0.0.1", TCP)


def of_length(length: int) -> bytes:
    """An allowed packet of so many bytes, Ethernet's 14 not counted."""
    return ipv4(*ALLOWED_PEER, transport(18883) + bytes(length - 40))


@pytest.mark.parametrize("program", ["fedge_egress", "fedge_ingress"])
def test_a_packet_over_the_budget_is_dropped_and_a_small_one_is_not(admission, program):
    admission.follow(*RULES, budget=Budget(2 * LARGE, 10_000, 1))
    assert [admission.verdict(program, of_length(LARGE))[0] for _ in range(3)] == [PASS, PASS, DROP]
    assert admission.verdict(program, of_length(128))[0] == PASS
    assert admission.verdict(program, of_length(129))[0] == DROP
    assert admission.budget_left() == -128


def test_both_directions_use_the_one_budget(admission):
    admission.follow(*RULES, budget=Budget(2 * LARGE, 10_000, 1))
    assert admission.verdict("fedge_ingress", of_length(LARGE))[0] == PASS
    assert admission.verdict("fedge_egress", of_length(LARGE))[0] == PASS
    assert admission.verdict("fedge_ingress", of_length(LARGE))[0] == DROP
    assert admission.verdict("fedge_egress", of_length(LARGE))[0] == DROP


def test_a_refused_packet_costs_no_budget(admission):
    admission.follow(*RULES, budget=Budget(LARGE, 10_000, 1))
    assert admission.verdict("fedge_egress", ipv4("127.0.0.9", TCP, transport(9)))[0] == DROP
    assert admission.budget_left() == LARGE


def test_without_a_budget_nothing_is_counted_down(admission):
    admission.follow(*RULES)
    assert admission.verdict("fedge_egress", of_length(LARGE))[0] == PASS
    assert admission.budget_left() == 0


def test_in_audit_mode_everything_passes_and_the_budget_is_still_told(admission):
    admission.follow(*RULES, rule=Rule(audit=True), budget=Budget(LARGE, 10_000, 1))
    assert {admission.verdict("fedge_egress", frame)[0] for frame, _ in TABLE.values()} == {PASS}
    assert admission.verdict("fedge_egress", of_length(2 * LARGE))[0] == PASS
    assert admission.verdict("fedge_ingress", of_length(2 * LARGE))[0] == PASS


# Few bits in few places, so that rules and packets often meet.
v4_addresses = st.integers(0, 255).map(lambda low: f"10.0.{low >> 4}.{low & 15}")
v6_addresses = st.integers(0, 255).map(lambda low: f"2001:db8:{low >> 4:x}::{low & 15:x}")
ports = st.integers(1, 3)
v4_rules = st.tuples(v4_addresses, st.integers(0, 32), ports, st.sampled_from(("tcp", "udp"))).map(
    lambda r: f"{ipaddress.ip_network(f'{r[0]}/{r[1]}', strict=False)}:{r[2]}/{r[3]}"
)
v6_rules = st.tuples(v6_addresses, st.integers(3, 128), ports, st.sampled_from(("tcp", "udp"))).map(
    lambda r: f"[{ipaddress.ip_network(f'{r[0]}/{r[1]}', strict=False)}]:{r[2]}/{r[3]}"
)
peers = st.tuples(st.one_of(v4_addresses, v6_addresses), ports, st.sampled_from((TCP, UDP)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rules=st.lists(st.one_of(v4_rules, v6_rules), max_size=8), tried=st.lists(peers, min_size=1, max_size=8))
def test_the_kernel_agrees_with_a_plain_reading_of_the_rules(admission, rules, tried):
    admission.follow(*rules)
    entries = parse_policy(rules)
    for host, port, protocol in tried:
        address = ipaddress.ip_address(host)
        expected = any(address in e.network and (e.port, e.protocol) == (port, protocol) for e in entries)
        build = ipv6 if address.version == 6 else ipv4
        assert admission.verdict("fedge_egress", build(host, protocol, transport(port)))[0] == int(expected)
