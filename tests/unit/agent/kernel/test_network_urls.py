import pytest

from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.network_urls import read_broker, read_proxy


@pytest.mark.parametrize(
    ("text", "shown", "rule"),
    [
        ("mqtts://mq.example.org", "mqtts://mq.example.org:8883", ("mq.example.org", 8883)),
        ("mqtts://MQ.example.org:443/", "mqtts://mq.example.org:443", ("mq.example.org", 443)),
        ("wss://mq.example.org", "wss://mq.example.org:443/mqtt", ("mq.example.org", 443)),
        ("wss://mq.example.org:8084/fleet/a", "wss://mq.example.org:8084/fleet/a", ("mq.example.org", 8084)),
    ],
)
def test_a_broker_has_the_port_and_path_of_its_scheme(text, shown, rule):
    found = read_broker(text)
    assert str(found) == shown
    assert (found.rule.where, found.rule.port) == rule


def test_an_address_is_a_network_of_one():
    assert str(read_broker("wss://[2001:db8::1]").rule.where) == "2001:db8::1/128"
    assert str(read_proxy("http://10.0.0.1:8080").rule.where) == "10.0.0.1/32"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mq.example.org",
        "mqtt://mq.example.org",
        "https://mq.example.org",
        "mqtts://mq.example.org/path",
        "mqtts://mq.example.org:0",
        "mqtts://mq.example.org:65536",
        "wss://0.0.0.0/0",
        "wss://",
        "wss://a b",
        "wss://a/\r\nX: 1",
        "wss://user@host",
        "wss://[::/0]",
        "wss://[::ffff:10.0.0.1]",
    ],
)
def test_what_is_no_broker_is_refused(text):
    if text == "wss://0.0.0.0/0":  # a path, not a prefix length
        assert str(read_broker(text).rule.where) == "0.0.0.0/32"
        return
    with pytest.raises(PolicyError):
        read_broker(text)


@pytest.mark.parametrize(
    "text", ["", "proxy:3128", "https://proxy:3128", "socks5://proxy", "http://p:99999", "http://p/x"]
)
def test_what_is_no_proxy_is_refused(text):
    with pytest.raises(PolicyError):
        read_proxy(text)


def test_credentials_in_a_url_are_refused_without_being_shown():
    with pytest.raises(PolicyError, match="proxy_credentials") as caught:
        read_proxy("http://user:secret@proxy:3128")
    assert "secret" not in str(caught.value)
