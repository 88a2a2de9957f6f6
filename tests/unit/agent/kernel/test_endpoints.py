import ipaddress
import os

import pytest

from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.dns import Answer
from fedge_agent.kernel.endpoints import MOST_KEPT, Resolved, Resolver, addresses_of, encoded, read_endpoints
from fedge_agent.kernel.errors import NameUnknownError, ResolverError
from fedge_agent.kernel.text_files import publish_text

RULE = read_rule("broker.example:8883/tcp")
OLD, NEW = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::2")


class Names:
    """A resolver whose answer a test sets."""

    def __init__(self, *addresses):
        self.addresses = addresses
        self.ttl_s = 60
        self.error = None
        self.asked = 0

    def __call__(self, name):
        assert name == "broker.example"
        self.asked += 1
        if self.error:
            raise self.error
        return Answer(self.addresses, self.ttl_s)


def resolver(names, known=(), now_s=100, in_use=()):
    return Resolver(known, grace_s=40, ask_for=names, now_s=lambda: now_s, in_use=lambda: frozenset(in_use))


def test_an_address_that_a_name_no_longer_has_stays_for_its_ttl_and_the_grace_time():
    names = Names(OLD)
    first = resolver(names).endpoint(RULE)
    assert first.fresh_until_s == 160
    names.addresses = (NEW,)
    second = resolver(names, [first], 130).endpoint(RULE)
    assert dict(second.addresses) == {OLD: 200, NEW: 230}
    third = resolver(names, [second], 201).endpoint(RULE)
    assert dict(third.addresses) == {NEW: 301}


@pytest.mark.parametrize(
    ("ttl_s", "held_s"), [(0, 30), (5, 30), (61, 61), (86_400, 3600), (2**31 - 1, 3600), (None, 300)]
)
def test_a_ttl_is_kept_between_half_a_minute_and_an_hour(ttl_s, held_s):
    names = Names(OLD)
    names.ttl_s = ttl_s
    found = resolver(names).endpoint(RULE)
    assert found.fresh_until_s == 100 + held_s
    assert dict(found.addresses) == {OLD: 100 + held_s + 40}


def test_answers_that_change_every_time_do_not_fill_the_allow_list():
    names = Names()
    known: list[Resolved] = []
    for number in range(4 * MOST_KEPT):
        names.addresses = (ipaddress.ip_address(0x08080000 + number),)
        known = [resolver(names, known).endpoint(RULE)]
    assert len(known[0].addresses) == MOST_KEPT + 1
    assert names.addresses[0] in dict(known[0].addresses)


def test_a_name_of_two_rules_is_asked_for_once():
    names = Names(OLD)
    asker = resolver(names)
    asker.endpoint(RULE)
    asker.endpoint(read_rule("broker.example:443/tcp"))
    assert names.asked == 1


def test_the_addresses_of_the_latest_answer_come_first():
    names = Names(ipaddress.ip_address("192.0.2.9"))
    first = resolver(names).endpoint(RULE)
    names.addresses = (ipaddress.ip_address("192.0.2.10"), ipaddress.ip_address("2001:db8::a"))
    second = resolver(names, [first], 110).endpoint(RULE)
    assert addresses_of([second], "broker.example", 8883, 110) == ("192.0.2.10", "2001:db8::a", "192.0.2.9")


def test_an_address_with_a_live_connection_stays_as_long_as_the_connection():
    names = Names(OLD)
    known = resolver(names).endpoint(RULE)
    names.addresses = (NEW,)
    for now_s in (199, 230, 300, 1000):
        known = resolver(names, [known], now_s, [(OLD, 8883)]).endpoint(RULE)
        assert dict(known.addresses)[OLD] == max(now_s + 40, 200)
    known = resolver(names, [known], 1041, [(OLD, 443), (NEW, 8883)]).endpoint(RULE)  # another port is another peer
    assert OLD not in dict(known.addresses)


def test_an_address_that_the_name_never_had_is_not_kept_for_a_connection():
    names = Names(OLD)
    known = resolver(names).endpoint(RULE)
    again = resolver(names, [known], 120, [(NEW, 8883)]).endpoint(RULE)
    assert set(dict(again.addresses)) == {OLD}


@pytest.mark.parametrize("error", [ResolverError("no answer"), NameUnknownError("no such name")])
def test_a_name_that_fails_keeps_its_known_addresses_without_prolonging_them(error):
    names = Names(OLD)
    known = resolver(names).endpoint(RULE)
    names.error = error
    again = resolver(names, [known], 120)
    assert again.endpoint(RULE).addresses == ((OLD, 200),)
    assert "known addresses serve" in again.warnings[0]
    with pytest.raises(type(error)):
        resolver(names, [known], 200).endpoint(RULE)


def test_an_address_needs_no_resolver_and_never_expires():
    found = resolver(Names()).endpoint(read_rule("192.0.2.1:53/udp"))
    assert found.addresses == ((OLD, None),)


def test_a_network_is_no_endpoint():
    assert resolver(Names()).endpoint(read_rule("192.0.2.0/24:443/tcp")).addresses == ()


def test_what_was_written_is_read_back_and_tells_where_to_connect(tmp_path):
    path = tmp_path / "run" / "endpoints"
    found = [resolver(Names(OLD, NEW)).endpoint(RULE)]
    publish_text(path, encoded(found))
    assert path.stat().st_mode & 0o777 == 0o644
    back = read_endpoints(path, owner_uid=os.geteuid())
    assert list(back) == found
    assert set(addresses_of(back, "broker.example", 8883, 100)) == {"192.0.2.1", "2001:db8::2"}
    assert addresses_of(back, "broker.example", 8883, 200) == ()
    assert addresses_of(back, "broker.example", 443, 100) == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["endpoints"]


def test_the_daemon_can_read_it_whatever_the_umask_of_the_unit(tmp_path):
    before = os.umask(0o077)
    try:
        publish_text(tmp_path / "run" / "endpoints", encoded([]))
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "run" / "endpoints").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    publish_text(tmp_path / "closed" / "endpoints", encoded([]))
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 1, "endpoints": [{"host": 1}]}', "7"])
def test_a_damaged_file_is_no_endpoint(tmp_path, text):
    (tmp_path / "endpoints").write_text(text)
    assert read_endpoints(tmp_path / "endpoints", owner_uid=os.geteuid()) == ()


def test_a_file_of_somebody_else_is_not_believed(tmp_path):
    path = tmp_path / "endpoints"
    publish_text(path, encoded([resolver(Names(OLD)).endpoint(RULE)]))
    assert read_endpoints(path, owner_uid=os.geteuid() + 1) == ()
    path.chmod(0o646)
    assert read_endpoints(path, owner_uid=os.geteuid()) == ()
    path.chmod(0o644)
    (tmp_path / "link").symlink_to(path)
    assert read_endpoints(tmp_path / "link", owner_uid=os.geteuid()) == ()
