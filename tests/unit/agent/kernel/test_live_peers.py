import ipaddress
import socket

import pytest

from fedge_agent.kernel.live_peers import live_peers

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/net").mkdir(parents=True)

    def write(tcp, tcp6=""):
        (tmp_path / "proc/net/tcp").write_text(HEAD + tcp)
        (tmp_path / "proc/net/tcp6").write_text(HEAD + tcp6)
        return tmp_path

    return write


def test_far_ends_of_established_connections_are_told_in_both_families(root):
    found = root(
        "   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 0100007F:1F90 010200C0:22B3 01 0\n",
        "   0: 0 B80D0120000000000000000001000000:01BB 01 0\n   1: 0 0000000000000000FFFF0000010200C0:01BB 01 0\n",
    )
    assert live_peers(found) == {
        (ipaddress.ip_address("192.0.2.1"), 8883),
        (ipaddress.ip_address("2001:db8::1"), 443),
        (ipaddress.ip_address("192.0.2.1"), 443),
    }


def test_lines_that_are_none_and_files_that_are_not_there_tell_nothing(root, tmp_path):
    assert live_peers(root("nonsense\n 0: x y 01\n 0: a 010200C0:ZZZZ 01 b\n 0: a 01020:01 01 b\n")) == frozenset()
    assert live_peers(tmp_path / "nowhere") == frozenset()


def test_a_real_connection_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert (ipaddress.ip_address("127.0.0.1"), server.getsockname()[1]) in live_peers()
