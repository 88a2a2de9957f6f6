"""Settings that cannot work, or would leak, are refused with the value and the cure."""

from pathlib import Path

import pytest

from fedge_transport.settings import ConnectionSettings

CA = Path("/ca.pem")


def make(**changes: object) -> ConnectionSettings:
    values: dict[str, object] = {"host": "broker.example", "port": 8883, "client_id": "d", "ca_file": CA, **changes}
    return ConnectionSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ca_file": None}, "without TLS"),
        ({"ca_file": None, "host": "10.0.0.1"}, "without TLS"),
        ({"ca_file": None, "host": "localhost"}, "without TLS"),  # a name may resolve to anything
        ({"cert_file": Path("/c.pem")}, "belong together"),
        ({"host": "/run/m.sock", "port": 0}, "server_name"),
        ({"port": 0}, "port is 0"),
        ({"port": 70_000}, "port is 70000"),
        ({"keepalive_s": 0}, "keepalive_s is 0"),
        ({"receive_maximum": 0}, "receive_maximum is 0"),
        ({"max_packet_bytes": 10}, "max_packet_bytes is 10"),
        ({"session_expiry_s": -1}, "session_expiry_s is -1"),
        ({"client_id": ""}, "must not be empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(**changes)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "/run/mosquitto.sock"])
def test_only_what_cannot_leave_the_machine_may_go_without_tls(host):
    assert make(host=host, ca_file=None).is_local


def test_the_expected_name_is_the_host_unless_another_is_given():
    assert make().expected_name == "broker.example"
    assert make(host="192.0.2.1", server_name="broker.example").expected_name == "broker.example"
