import ipaddress

import pytest

from fedge_agent.kernel.dns import MOST_ADDRESSES, ask, believed
from fedge_agent.kernel.errors import NameUnknownError

PUBLIC = ipaddress.ip_address("8.8.8.8")


def addresses(*texts):
    return tuple(ipaddress.ip_address(text) for text in texts)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
    ],
)
def test_a_name_server_cannot_send_the_agent_to_itself_nor_to_special_addresses(text):
    found = believed("mq.example", addresses("8.8.8.8", text), 60)
    assert found.addresses == (PUBLIC,)
    assert f"{ipaddress.ip_address(text)} is no address of a peer" in found.notes[0]
    with pytest.raises(NameUnknownError, match="no address that may be connected to"):
        believed("mq.example", addresses(text), 60)


def test_private_addresses_are_believed_alone_and_left_out_beside_public_ones():
    alone = believed("mq.example", addresses("10.0.0.1", "fd00::1"), 60)
    assert alone.addresses == addresses("10.0.0.1", "fd00::1")
    assert alone.notes == ()
    mixed = believed("mq.example", addresses("10.0.0.1", "8.8.8.8", "fd00::1"), 60)
    assert mixed.addresses == (PUBLIC,)
    assert "public and private" in mixed.notes[0]


def test_what_dns64_makes_of_a_public_address_is_a_peer():
    assert believed("mq.example", addresses("64:ff9b::808:808"), 60).addresses == addresses("64:ff9b::808:808")


def test_more_addresses_than_any_service_needs_are_cut():
    many = tuple(ipaddress.ip_address(0x08080000 + number) for number in range(500))
    found = believed("mq.example", many, 60)
    assert found.addresses == many[:MOST_ADDRESSES]
    assert "500 addresses" in found.notes[0]


def test_the_hosts_file_is_the_owners_word_and_has_no_ttl(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# comment\n127.0.0.1 localhost mq.example # here\n::1 MQ.example\nnonsense mq.example\n")
    found = ask("mq.example.", hosts=hosts)
    assert found.addresses == addresses("127.0.0.1", "::1")
    assert found.ttl_s is None


def test_a_machine_that_does_not_ask_the_dns_is_not_made_to(tmp_path):
    nsswitch = tmp_path / "nsswitch.conf"
    nsswitch.write_text("passwd: files\nhosts: files mymachines # dns\n")
    found = ask("mq.example", hosts=tmp_path / "none", nsswitch=nsswitch, system=lambda _: addresses("10.1.1.1"))
    assert found.addresses == addresses("10.1.1.1")
    assert found.ttl_s is None


def test_what_getaddrinfo_says_is_believed_no_more_than_the_dns(tmp_path):
    """A hostile server may deny the name once, and answer glibc's own question with this machine."""
    nsswitch = tmp_path / "nsswitch.conf"
    nsswitch.write_text("hosts: mymachines\n")
    hostile = addresses("127.0.0.1", "169.254.169.254", "10.1.1.1", "8.8.8.8")
    found = ask("mq.example", hosts=tmp_path / "none", nsswitch=nsswitch, system=lambda _: hostile)
    assert found.addresses == addresses("8.8.8.8")
    with pytest.raises(NameUnknownError):
        ask("mq.example", hosts=tmp_path / "none", nsswitch=nsswitch, system=lambda _: addresses("127.0.0.1"))
