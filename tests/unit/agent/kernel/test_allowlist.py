import contextlib
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.kernel.allowlist import Allowed, parse_policy, parse_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.records import Protocol


def never(name):
    raise AssertionError(name)


def test_a_v4_rule_becomes_the_mapped_key_with_exact_port_and_protocol():
    (entry,) = parse_rule("10.0.0.0/8:443/tcp", never)
    key = entry.key()
    assert struct.unpack("=I", key[:4]) == (32 + 96 + 8,)
    assert key[4:8] == bytes((443 >> 8, 443 & 255, 6, 0))
    assert ipaddress.IPv6Address(key[8:]).ipv4_mapped == ipaddress.IPv4Address("10.0.0.0")


def test_a_v6_rule_stands_in_brackets_with_its_prefix_length():
    (entry,) = parse_rule("[2001:db8::/32]:8883/udp", never)
    assert entry == Allowed(ipaddress.IPv6Network("2001:db8::/32"), 8883, Protocol.UDP)
    assert struct.unpack("=I", entry.key()[:4]) == (32 + 32,)


def test_a_host_name_becomes_one_entry_for_each_address():
    addresses = [ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")]
    entries = parse_rule("broker.example:8883/tcp", lambda _name: addresses)
    assert [str(e) for e in entries] == ["192.0.2.1:8883/tcp", "[2001:db8::1]:8883/tcp"]


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:443",
        "192.0.2.1:443/sctp",
        "192.0.2.1:0/tcp",
        "192.0.2.1:65536/tcp",
        "192.0.2.1/33:443/tcp",
        "192.0.2.1/24:443/tcp",
        "192.0.2:443/tcp",
        "999.0.2.1:443/tcp",
        "::1:443/tcp",
        "[::1]443/tcp",
        "[::/0]:443/tcp",
        "[::ffff:192.0.2.1]:443/tcp",
        "[zz]:443/tcp",
        "-bad-:443/tcp",
        "a b:443/tcp",
    ],
)
def test_a_rule_that_does_not_say_what_it_means_is_refused(rule):
    with pytest.raises(PolicyError):
        parse_rule(rule, never)


def test_repeated_rules_count_once_and_too_many_are_refused():
    assert len(parse_policy(["192.0.2.1:1/tcp", "192.0.2.1:1/tcp"], never)) == 1
    with pytest.raises(PolicyError, match="1024"):
        parse_policy([f"192.0.2.1:{port}/tcp" for port in range(1, 1026)], never)


networks = st.one_of(
    st.builds(
        lambda a, n: ipaddress.ip_network((a, n), strict=False), st.ip_addresses(v=4).map(str), st.integers(0, 32)
    ),
    st.builds(
        lambda a, n: ipaddress.ip_network((a, n), strict=False),
        st.ip_addresses(v=6, network="2000::/3").map(str),
        st.integers(3, 128),
    ),
)


@given(networks, st.integers(1, 65535), st.sampled_from(Protocol))
def test_a_printed_rule_reads_back_as_itself(network, port, protocol):
    entry = Allowed(network, port, protocol)
    assert parse_rule(str(entry), never) == (entry,)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_policy_error(text):
    with contextlib.suppress(PolicyError):
        parse_rule(text, lambda _name: [])
