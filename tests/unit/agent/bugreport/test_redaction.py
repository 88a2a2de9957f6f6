import pytest

from fedge_agent.bugreport.redaction import Redactor

DEVICE = "0123456789abcdef" * 2


@pytest.fixture
def redactor():
    return Redactor(keep=[DEVICE], hosts=["ca.fleet.example", "gateway", "localhost", "192.0.2.7"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\nnext", "<pem>\nnext"),
        ("cut off: -----BEGIN EC PRIVATE KEY-----\nMIGHAgEA", "cut off: <pem>"),
        ("enroll fedge1.pGNmb28-_x again", "enroll <token> again"),
        ("http://me:pass@proxy:80/x", "http://<credentials>@<host-1>:80/x"),
        ("password=hunter2 next", "password=<removed> next"),
        ('"api_key": "abc def", x', '"api_key": <removed>, x'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: <removed>"),
        ("sent bearer abcdefgh.ijkl to", "sent bearer <removed> to"),
        (f"device {DEVICE} and {'ab' * 16}", f"device {DEVICE} and <hex-1>"),
        ("0x" + "12" * 20 + " paid " + "0x" + "12" * 20, "<hex-1> paid <hex-1>"),
        ("c2VjcmV0IGtleSBtYXRlcmlhbCBvZiBhIGRldmljZQ==", "<base64>"),
        ("no route to 203.0.113.9, 203.0.113.10, 203.0.113.9", "no route to <address-1>, <address-2>, <address-1>"),
        ("peer 2001:db8::1 and [fe80::1]:8883", "peer <address-1> and [<address-2>]:8883"),
        ("at 127.0.0.1:8443 and ::1 and 0.0.0.0", "at 127.0.0.1:8443 and ::1 and 0.0.0.0"),
        ("mqtts://mq.example.org:8883 twice mqtts://mq.example.org", "mqtts://<host-1>:8883 twice mqtts://<host-1>"),
        ("name CA.fleet.example unknown to Gateway", "name <host-1> unknown to <host-2>"),
        ("no answer from mq.example.org:8883 (x)", "no answer from <host-1>:8883 (x)"),
        ("agent.toml:24: consent.max: unknown", "agent.toml:24: consent.max: unknown"),
        ("/etc/fedge/agent.d/50-x.toml:3: worker", "/etc/fedge/agent.d/50-x.toml:3: worker"),
        ("read_variable.py:67 said no", "read_variable.py:67 said no"),
        ("ask somebody@example.org", "ask <mail>"),
        ("link 52:54:00:12:34:56 up", "link <mac> up"),
        ("/home/alice/data is empty", "/home/<user>/data is empty"),
        ("2026-11-21T12:34:56+0000 at 12:34:56", "2026-11-21T12:34:56+0000 at 12:34:56"),
        (
            "/sys/fs/cgroup/fedge.slice/fedge-agent.service/worker",
            "/sys/fs/cgroup/fedge.slice/fedge-agent.service/worker",
        ),
        ("agent/fedge_agent/federation/prekey_pool_and_more", "agent/fedge_agent/federation/prekey_pool_and_more"),
        ("job digits round 3: training; cpu some 0.12", "job digits round 3: training; cpu some 0.12"),
        ("6.1.0-50-cloud-amd64", "6.1.0-50-cloud-amd64"),
    ],
)
def test_what_is_secret_goes_and_what_helps_stays(redactor, text, expected):
    assert redactor.text(text) == expected


def test_values_are_searched_whole_with_their_names(redactor):
    found = redactor.plain(
        {"a": ["203.0.113.9", 3, None, True, 1.5], "password": "x", "prekey_seed": [1], "at 203.0.113.9": {"b": ("c",)}}
    )
    assert found == {
        "a": ["<address-1>", 3, None, True, 1.5],
        "password": "<removed>",
        "prekey_seed": "<removed>",
        "at <address-1>": {"b": ["c"]},
    }
