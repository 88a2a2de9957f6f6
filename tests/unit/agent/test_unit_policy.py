import json

import pytest

from fedge_agent.identity import record
from fedge_agent.identity.errors import IdentityError
from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.unit_policy import RECORD, enrolment_rules
from fedge_protocol.enrolment import EnrolAnswer


@pytest.fixture
def enrol(tmp_path):
    """Writes an enrolment whose CA and broker are at these URLs; only they are looked at."""

    def write(url, broker_url):
        path = tmp_path / RECORD
        path.write_text(json.dumps({"url": url, "answer": {"broker_url": broker_url}}))
        path.chmod(0o600)
        return tmp_path

    return write


def test_the_enrolment_is_read_where_it_is_written_and_by_the_same_names():
    assert RECORD == record.RECORD
    assert {"url", "answer"} <= set(record.Record.__struct_fields__)
    assert "broker_url" in EnrolAnswer.__struct_fields__


def test_a_device_that_is_not_enrolled_may_reach_nothing(tmp_path):
    assert enrolment_rules(tmp_path) == ()


def test_the_ca_and_the_broker_are_allowed_and_no_name_server(enrol):
    state_dir = enrol("https://192.0.2.1:8443", "mqtts://[2001:db8::1]")
    assert enrolment_rules(state_dir) == ("192.0.2.1:8443/tcp", "[2001:db8::1]:8883/tcp")
    state_dir = enrol("https://ca.example.org", "mqtts://mq.example.org:8884")
    assert enrolment_rules(state_dir) == ("ca.example.org:443/tcp", "mq.example.org:8884/tcp")


def test_a_broker_in_a_websocket_is_at_the_port_of_https(enrol):
    state_dir = enrol("https://ca.example.org", "wss://mq.example.org/mqtt")
    assert enrolment_rules(state_dir) == ("ca.example.org:443/tcp", "mq.example.org:443/tcp")


def test_a_broker_that_the_owner_has_moved_is_not_allowed_where_it_was(enrol):
    state_dir = enrol("https://ca.example.org", "mqtts://mq.example.org:8884")
    assert enrolment_rules(state_dir, with_broker=False) == ("ca.example.org:443/tcp",)


@pytest.mark.parametrize("where", ["ca", "broker"])
@pytest.mark.parametrize("host", ["a/0", "0.0.0.0/0", "*", "a:1/tcp,b", "", "[::/0]", "[", "a b", "a\n0.0.0.0"])
def test_an_enrolment_that_the_daemon_tampered_with_opens_no_network(enrol, host, where):
    ca, broker = (host, "192.0.2.1") if where == "ca" else ("192.0.2.1", host)
    state_dir = enrol(f"https://{ca}", f"mqtts://{broker}")
    try:
        rules = [read_rule(text) for text in enrolment_rules(state_dir)]
    except (IdentityError, PolicyError):
        return
    for rule in rules:
        assert isinstance(rule.where, str) or rule.where.prefixlen == rule.where.max_prefixlen


@pytest.mark.parametrize(
    "content", [b"\xff\x00", b"[]", b'{"url": "https://a"}', b'{"url": 1, "answer": {"broker_url": 2}}']
)
def test_a_damaged_enrolment_is_refused(tmp_path, content):
    path = tmp_path / RECORD
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="enrol again"):
        enrolment_rules(tmp_path)


def test_what_was_accepted_first_stays_allowed_until_root_says_otherwise(enrol, tmp_path):
    accepted = tmp_path / "fedge.enrolment"
    warnings: list[str] = []
    state_dir = enrol("https://ca.example.org", "mqtts://mq.example.org:8884")
    first = enrolment_rules(state_dir, accepted=accepted, warn=warnings.append)
    assert first == ("ca.example.org:443/tcp", "mq.example.org:8884/tcp")
    assert accepted.stat().st_mode & 0o777 == 0o600
    enrol("https://attacker.example", "mqtts://mq.example.org:8884")
    assert enrolment_rules(state_dir, accepted=accepted, warn=warnings.append) == first
    assert len(warnings) == 1
    assert f"rm {accepted}" in warnings[0]


@pytest.mark.parametrize("url", ["https://a\n", "https://ä", "https://\x1b[2J", "https://" + "a" * 300, "https://a_b*"])
def test_what_could_not_be_allowed_is_not_accepted(enrol, tmp_path, url):
    accepted = tmp_path / "fedge.enrolment"
    with pytest.raises((IdentityError, PolicyError)):
        enrolment_rules(enrol(url, "mqtts://192.0.2.1"), accepted=accepted)
    assert not accepted.exists()


@pytest.mark.parametrize("content", ["", "https://a\n", "https://a\nmqtts://b\nmore\n"])
def test_a_damaged_acceptance_is_refused_with_its_cure(enrol, tmp_path, content):
    accepted = tmp_path / "fedge.enrolment"
    accepted.write_text(content)
    with pytest.raises(PolicyError, match=f"rm {accepted}"):
        enrolment_rules(enrol("https://a", "mqtts://b"), accepted=accepted)


def test_an_acceptance_that_others_may_write_is_refused(enrol, tmp_path):
    accepted = tmp_path / "fedge.enrolment"
    accepted.write_text("https://a\nmqtts://b\n")
    accepted.chmod(0o666)
    with pytest.raises(PolicyError, match="others may write it"):
        enrolment_rules(enrol("https://a", "mqtts://b"), accepted=accepted)
