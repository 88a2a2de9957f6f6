import ipaddress

import msgspec
import pytest

from fedge_agent.kernel.errors import PolicyError
from fedge_agent.unit_policy import unit_policy


@pytest.fixture
def resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("# by hand\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch example.org\nnameserver bogus\n")
    return path


@pytest.fixture
def enrol(tmp_path, monkeypatch):
    """Writes an enrolment whose CA and broker are at these URLs; only they are looked at."""

    class Answer(msgspec.Struct):
        broker_url: str

    class Two(msgspec.Struct):
        url: str
        answer: Answer

    def write(url, broker_url):
        monkeypatch.setattr("fedge_agent.unit_policy.Record", Two)
        path = tmp_path / "identity.json"
        path.write_bytes(msgspec.json.encode(Two(url, Answer(broker_url))))
        path.chmod(0o600)
        return tmp_path

    return write


def resolve(name):
    if name == "gone.example.org":
        raise PolicyError(f"host name {name!r} does not resolve")
    return [ipaddress.ip_address("198.51.100.7"), ipaddress.ip_address("2001:db8::7")]


def texts(entries):
    return [str(entry) for entry in entries]


def test_a_device_that_is_not_enrolled_may_reach_nothing(tmp_path, resolv_conf):
    assert unit_policy(tmp_path, resolv_conf=resolv_conf, resolve=resolve) == ((), ())


def test_addresses_need_no_name_server(enrol, resolv_conf):
    state_dir = enrol("https://192.0.2.1:8443", "mqtts://[2001:db8::1]")
    entries, problems = unit_policy(state_dir, resolv_conf=resolv_conf, resolve=resolve)
    assert texts(entries) == ["192.0.2.1:8443/tcp", "[2001:db8::1]:8883/tcp"]
    assert problems == ()


def test_names_are_resolved_and_their_name_servers_allowed(enrol, resolv_conf):
    state_dir = enrol("https://ca.example.org", "mqtts://mq.example.org:8884")
    entries, problems = unit_policy(state_dir, resolv_conf=resolv_conf, resolve=resolve)
    assert texts(entries) == [
        "198.51.100.7:443/tcp",
        "[2001:db8::7]:443/tcp",
        "198.51.100.7:8884/tcp",
        "[2001:db8::7]:8884/tcp",
        "192.0.2.53:53/udp",
        "192.0.2.53:53/tcp",
        "[fe80::1]:53/udp",
        "[fe80::1]:53/tcp",
    ]
    assert problems == ()


def test_a_name_that_does_not_resolve_is_left_out_and_told(enrol, resolv_conf):
    state_dir = enrol("https://192.0.2.1:8443", "mqtts://gone.example.org")
    entries, problems = unit_policy(state_dir, resolv_conf=resolv_conf, resolve=resolve)
    assert "192.0.2.1:8443/tcp" in texts(entries)
    assert "gone.example.org" in problems[0]


@pytest.mark.parametrize("host", ["a/0", "0.0.0.0/0", "*", "a:1/tcp,b", ""])
def test_an_enrolment_that_the_daemon_tampered_with_opens_no_network(enrol, resolv_conf, host):
    state_dir = enrol(f"https://{host}", "mqtts://192.0.2.1")
    entries, _ = unit_policy(state_dir, resolv_conf=resolv_conf, resolve=resolve)
    assert all(entry.network.prefixlen == entry.network.max_prefixlen for entry in entries)


def test_a_damaged_enrolment_allows_nothing_and_says_so(tmp_path, resolv_conf):
    path = tmp_path / "identity.json"
    path.write_bytes(b"\xff\x00")
    path.chmod(0o600)
    entries, problems = unit_policy(tmp_path, resolv_conf=resolv_conf, resolve=resolve)
    assert entries == ()
    assert "enrol again" in problems[0]
