import msgspec
import pytest

from fedge_agent.identity.errors import IdentityError
from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.unit_policy import enrolment_rules


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


def test_a_device_that_is_not_enrolled_may_reach_nothing(tmp_path, resolv_conf):
    assert enrolment_rules(tmp_path, resolv_conf=resolv_conf) == ()


def test_addresses_need_no_name_server(enrol, resolv_conf):
    state_dir = enrol("https://192.0.2.1:8443", "mqtts://[2001:db8::1]")
    assert enrolment_rules(state_dir, resolv_conf=resolv_conf) == ("192.0.2.1:8443/tcp", "[2001:db8::1]:8883/tcp")


def test_names_come_with_their_name_servers(enrol, resolv_conf):
    state_dir = enrol("https://ca.example.org", "mqtts://mq.example.org:8884")
    assert enrolment_rules(state_dir, resolv_conf=resolv_conf) == (
        "ca.example.org:443/tcp",
        "mq.example.org:8884/tcp",
        "192.0.2.53:53/udp",
        "192.0.2.53:53/tcp",
        "[fe80::1]:53/udp",
        "[fe80::1]:53/tcp",
    )


@pytest.mark.parametrize("host", ["a/0", "0.0.0.0/0", "*", "a:1/tcp,b", "", "[::/0]", "[", "a b", "a\n0.0.0.0"])
def test_an_enrolment_that_the_daemon_tampered_with_opens_no_network(enrol, resolv_conf, host):
    state_dir = enrol(f"https://{host}", "mqtts://192.0.2.1")
    try:
        rules = [read_rule(text) for text in enrolment_rules(state_dir, resolv_conf=resolv_conf)]
    except (IdentityError, PolicyError):
        return
    for rule in rules:
        assert isinstance(rule.where, str) or rule.where.prefixlen == rule.where.max_prefixlen


def test_a_damaged_enrolment_is_refused(tmp_path, resolv_conf):
    path = tmp_path / "identity.json"
    path.write_bytes(b"\xff\x00")
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="enrol again"):
        enrolment_rules(tmp_path, resolv_conf=resolv_conf)
