import os
import tomllib
from datetime import UTC, datetime

import pytest

from fedge_coordinator.enrolment import desk, settings
from fedge_coordinator.enrolment.errors import AuthorityFilesError, SettingsError

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def chosen(**changes):
    return settings.check(
        **{
            "fleet": "lab",
            "listen": "127.0.0.1:8443",
            "names": ("localhost",),
            "broker_url": "mqtts://localhost:8883",
            **changes,
        }
    )


def test_settings_survive_their_file(tmp_path):
    own = chosen(names=("a.b", "10.0.0.1"), chain_id=7, job_signers=("ab",), broker={"dir": "/x", "pid_file": "/y"})
    (tmp_path / "ca.toml").write_text(settings.as_toml(own))
    assert settings.load(tmp_path / "ca.toml") == own
    assert own.url == "https://a.b:8443"
    assert chosen(names=("::1",), listen="[::1]:8443").url == "https://[::1]:8443"
    assert chosen(listen="[::1]:8443").host == "::1"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fleet", "Lab"),
        ("fleet", 'lab"\nx'),
        ("listen", "8443"),
        ("names", ()),
        ("broker_url", "mqtt://localhost:1883"),
        ("registry", "0x12"),
        ("device_days", 0),
        ("names", ('a"]',)),
    ],
)
def test_a_value_out_of_bounds_is_named(field, value):
    with pytest.raises(SettingsError, match=field):
        chosen(**{field: value})


def test_an_unknown_line_in_the_file_is_named(tmp_path):
    (tmp_path / "ca.toml").write_text(settings.as_toml(chosen()) + "\ndevice_dais = 3\n")
    with pytest.raises(SettingsError, match="device_dais"):
        settings.load(tmp_path / "ca.toml")
    assert tomllib.loads((tmp_path / "ca.toml").read_text())["device_dais"] == 3


def test_a_new_ca_is_private_and_never_overwritten(tmp_path):
    folder = tmp_path / "ca"
    authority = desk.establish(folder, chosen(), now=NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {(folder / name).stat().st_mode & 0o777 for name in ("ca.key", "ca.toml", "ca.db")} == {0o600}
    with pytest.raises(AuthorityFilesError, match="a CA already"):
        desk.establish(folder, chosen(), now=NOW)
    assert desk.open_office(folder, NOW.timestamp).authority.sha256 == authority.sha256


def test_a_root_key_that_others_can_read_is_refused(tmp_path):
    desk.establish(tmp_path / "ca", chosen(), now=NOW)
    (tmp_path / "ca" / "ca.key").chmod(0o640)
    with pytest.raises(AuthorityFilesError, match="0640"):
        desk.open_office(tmp_path / "ca", NOW.timestamp)


def test_a_key_of_another_root_is_refused(tmp_path):
    for name in ("a", "b"):
        desk.establish(tmp_path / name, chosen(), now=NOW)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(AuthorityFilesError, match="not the key of"):
        desk.open_office(tmp_path / "a", NOW.timestamp)


def test_one_process_at_a_time_owns_a_ca(tmp_path):
    with desk.ownership(tmp_path) as first, desk.ownership(tmp_path) as second:
        assert (first, second) == (True, False)
    with desk.ownership(tmp_path) as again:
        assert again
    with pytest.raises(AuthorityFilesError), desk.ownership(tmp_path / "absent"):
        pass


def test_a_link_in_place_of_the_lock_makes_no_file_elsewhere(tmp_path):
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuthorityFilesError, match="lock"), desk.ownership(tmp_path / "ca"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in another's directory; run as root")
def test_the_lock_that_root_makes_is_the_cas(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    with desk.ownership(tmp_path) as owned:
        assert owned
    assert (tmp_path / "lock").stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in another's directory; run as root")
def test_a_second_name_of_somebodys_file_in_place_of_the_lock_gives_that_file_to_nobody(tmp_path):
    precious = tmp_path / "precious"
    precious.touch()
    (tmp_path / "ca").mkdir()
    os.chown(tmp_path / "ca", 65534, 65534)
    (tmp_path / "ca" / "lock").hardlink_to(precious)
    with desk.ownership(tmp_path / "ca"):
        pass
    assert precious.stat().st_uid == 0
