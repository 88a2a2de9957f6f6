from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_coordinator.config import Config, ConfigError, load

WHOLE = """\
fleet = "lab"
state_dir = "/var/lib/fedge-coordinator"
socket = "/run/fedge/coordinator.sock"
committee_keys = ["/etc/fedge/keys/committee.key"]

[identity]
ca = "/etc/fedge/ca.pem"
cert = "/etc/fedge/coordinator.pem"
key = "/etc/fedge/coordinator.key"

[ca]
url = "https://127.0.0.1:8443"

[broker]
host = "127.0.0.1"
port = 8883

[held_out]
digits = ["/srv/held-out.npz"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.toml"


def fault(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_a_whole_file_is_read_and_without_a_chain_settlement_is_local(path):
    path.write_text(WHOLE)
    found = load(path)
    assert (found.fleet, found.broker.port, found.chain) == ("lab", 8883, None)
    assert found.held_out == {"digits": ["/srv/held-out.npz"]}
    path.write_text(
        WHOLE
        + '[chain]\nurls = ["http://127.0.0.1:8545"]\nmanifest = "/etc/fedge/chain.json"\nsender_key = "/etc/fedge/s"\n'
    )
    chain = load(path).chain
    assert chain is not None
    assert chain.urls == ["http://127.0.0.1:8545"]


def test_keys_that_the_service_manager_gave_come_before_their_files(path, monkeypatch):
    folder = path.parent / "credentials"
    folder.mkdir()
    for name in ("fedge.committee.key", "fedge.coordinator.key"):
        (folder / name).write_text("secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    chain = (
        '[chain]\nurls = ["http://[::1]"]\nmanifest = "/etc/fedge/chain.json"\nsender_key = "/etc/fedge/sender.key"\n'
    )
    path.write_text(WHOLE.replace('keys/committee.key"', 'keys/committee.key", "/etc/fedge/second.key"') + chain)
    found = load(path)
    assert found.committee_keys == [f"{folder}/fedge.committee.key", "/etc/fedge/second.key"]
    assert found.identity.key == f"{folder}/fedge.coordinator.key"
    assert found.chain is not None
    assert found.chain.sender_key == "/etc/fedge/sender.key"
    (folder / "fedge.sender.key").write_text("secret")
    (folder / "fedge.second.key").write_text("secret")
    again = load(path)
    assert again.chain is not None
    assert again.chain.sender_key == f"{folder}/fedge.sender.key"
    assert again.committee_keys[1] == f"{folder}/fedge.second.key"


@pytest.mark.parametrize(
    ("old", "new", "setting"),
    [
        ('fleet = "lab"', 'fleet = "Lab"', "fleet"),
        ('fleet = "lab"', 'fleet = "lab\\n"', "fleet"),
        ('fleet = "lab"', "", "fleet"),
        ("port = 8883", "port = 0", "broker.port"),
        ("port = 8883", 'port = "8883"', "broker.port"),
        ('url = "https://', 'url = "http://', "ca.url"),
        ('key = "/etc', 'key = "etc', "identity.key"),
        ('committee_keys = ["/etc/fedge/keys/committee.key"]', "committee_keys = []", "committee_keys"),
        ('["/srv/held-out.npz"]', '["held-out.npz"]', "held_out"),
        ("[broker]", "[broker]\ncolour = 1", "broker.colour"),
    ],
)
def test_a_fault_is_told_with_its_setting(path, old, new, setting):
    assert old in WHOLE
    assert f"{path}: {setting}" in fault(path, WHOLE.replace(old, new))


def test_what_cannot_be_read_is_told(path):
    with pytest.raises(ConfigError, match="No such file"):
        load(path)
    assert "line 1" in fault(path, "= 1")
    assert fault(path, "a = " + "[" * 100_000)
    assert "more than" in fault(path, "#" * 300_000)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=100) | st.lists(st.sampled_from(WHOLE.splitlines()), max_size=16).map("\n".join))
def test_any_text_is_a_configuration_or_an_error(path, text):
    path.write_text(text, encoding="utf-8")
    with suppress(ConfigError):
        assert isinstance(load(path), Config)
