import ipaddress
import os

import pytest

from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.endpoints import Resolver, addresses_of, read_endpoints, write_endpoints
from fedge_agent.kernel.errors import NameUnknownError, ResolverError

RULE = read_rule("broker.example:8883/tcp")
OLD, NEW = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::2")


class Names:
    """A resolver whose answer a test sets."""

    def __init__(self, *addresses):
        self.addresses = addresses
        self.error = None

    def __call__(self, name):
        assert name == "broker.example"
        if self.error:
            raise self.error
        return self.addresses


def resolver(names, known=(), now_s=100):
    return Resolver(known, expiry_s=60, ask=names, now_s=lambda: now_s)


def test_an_address_that_a_name_no_longer_has_stays_until_it_expires():
    names = Names(OLD)
    first = resolver(names).endpoint(RULE)
    names.addresses = (NEW,)
    second = resolver(names, [first], 130).endpoint(RULE)
    assert dict(second.addresses) == {OLD: 160, NEW: 190}
    third = resolver(names, [second], 161).endpoint(RULE)
    assert dict(third.addresses) == {NEW: 221}


@pytest.mark.parametrize("error", [ResolverError("no answer"), NameUnknownError("no such name")])
def test_a_name_that_fails_keeps_its_known_addresses_without_prolonging_them(error):
    names = Names(OLD)
    known = resolver(names).endpoint(RULE)
    names.error = error
    again = resolver(names, [known], 120)
    assert again.endpoint(RULE).addresses == ((OLD, 160),)
    assert "known addresses serve" in again.warnings[0]
    with pytest.raises(type(error)):
        resolver(names, [known], 160).endpoint(RULE)


def test_an_address_needs_no_resolver_and_never_expires():
    found = resolver(Names()).endpoint(read_rule("192.0.2.1:53/udp"))
    assert found.addresses == ((OLD, None),)


def test_a_network_is_no_endpoint():
    assert resolver(Names()).endpoint(read_rule("192.0.2.0/24:443/tcp")).addresses == ()


def test_what_was_written_is_read_back_and_tells_where_to_connect(tmp_path):
    path = tmp_path / "run" / "endpoints"
    found = [resolver(Names(OLD, NEW)).endpoint(RULE)]
    write_endpoints(path, found)
    assert path.stat().st_mode & 0o777 == 0o644
    back = read_endpoints(path, owner_uid=os.geteuid())
    assert list(back) == found
    assert set(addresses_of(back, "broker.example", 8883, 100)) == {"192.0.2.1", "2001:db8::2"}
    assert addresses_of(back, "broker.example", 8883, 160) == ()
    assert addresses_of(back, "broker.example", 443, 100) == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["endpoints"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 1, "endpoints": [{"host": 1}]}', "7"])
def test_a_damaged_file_is_no_endpoint(tmp_path, text):
    (tmp_path / "endpoints").write_text(text)
    assert read_endpoints(tmp_path / "endpoints", owner_uid=os.geteuid()) == ()


def test_a_file_of_somebody_else_is_not_believed(tmp_path):
    path = tmp_path / "endpoints"
    write_endpoints(path, [resolver(Names(OLD)).endpoint(RULE)])
    assert read_endpoints(path, owner_uid=os.geteuid() + 1) == ()
    path.chmod(0o646)
    assert read_endpoints(path, owner_uid=os.geteuid()) == ()
    path.chmod(0o644)
    (tmp_path / "link").symlink_to(path)
    assert read_endpoints(tmp_path / "link", owner_uid=os.geteuid()) == ()
