"""Secrets that systemd hands over come before files: token, keys of the device, key of the CA."""

import dataclasses
from datetime import UTC, datetime

import pytest

from fedge_agent import cli, rewards
from fedge_agent.identity import keys, record
from fedge_agent.identity.errors import KeyFileError
from fedge_coordinator.enrolment import desk
from fedge_coordinator.enrolment.errors import AuthorityFilesError


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """Hands a secret over as systemd does, with the mode bits that an access list shows."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    def give(name, content):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o440)

    return give


def emptied(path):
    """Takes a secret out of its file, as docs/packaging.md says."""
    content = path.read_bytes()
    path.write_bytes(b"")
    return content


@pytest.fixture
def configured(tmp_path):
    (tmp_path / "agent.toml").write_text(f'state_dir = "{tmp_path}/d"\nruntime_dir = "{tmp_path}/run"\n')
    return ["--config", str(tmp_path / "agent.toml")]


def test_a_device_enrols_with_the_token_it_was_given(ca, credentials, configured, capsys):
    credentials("fedge.enrolment.token", (ca.token() + "\n").encode())
    assert cli.main([*configured, "enroll"]) == cli.EX_OK
    assert "in fleet lab" in capsys.readouterr().out


def test_a_token_on_the_command_line_comes_before_the_given_one(ca, credentials, configured, tmp_path):
    credentials("fedge.enrolment.token", b"fedge1.spent")
    assert cli.main([*configured, "enroll", ca.token()]) == cli.EX_OK
    assert record.load(tmp_path / "d").fleet == "lab"


def test_keys_that_are_credentials_are_used_and_the_files_may_be_empty(device, credentials):
    before = keys.load(device.folder)
    credentials("fedge.identity.key", emptied(device.folder / "identity.key"))
    credentials("fedge.chain.key", emptied(device.folder / "chain.key"))
    found = keys.load(device.folder)
    assert (found.device_id, found.chain_address) == (before.device_id, before.chain_address)
    loaded = record.load(device.folder)
    assert loaded.key_file.parent.name == "credentials"
    assert loaded.key_file.read_bytes()


def test_an_emptied_key_without_its_credential_is_refused_and_never_replaced(device):
    emptied(device.folder / "identity.key")
    with pytest.raises(KeyFileError, match="no private key in PEM"):
        keys.load_or_generate(device.folder)
    assert (device.folder / "identity.key").read_bytes() == b""


def test_another_file_that_a_group_may_read_is_still_refused(device, credentials):
    credentials("fedge.identity.key", (device.folder / "identity.key").read_bytes())
    (device.folder / "chain.key").chmod(0o440)
    with pytest.raises(KeyFileError, match="0440"):
        keys.load(device.folder)


def test_the_ca_opens_with_its_key_as_a_credential_and_its_directory_cannot_be_founded_again(make_ca, credentials):
    ca = make_ca()
    ca.stop()
    credentials("fedge.ca.key", emptied(ca.folder / "ca.key"))
    ca.start()  # in its own process, which inherits the directory's name
    assert ca.token().startswith("fedge1.")
    ca.stop()
    office = desk.open_office(ca.folder, ca.clock)
    assert office.authority.certificate_pem() == (ca.folder / "ca.pem").read_bytes()
    with pytest.raises(AuthorityFilesError, match="is a CA already"):
        desk.establish(ca.folder, office.settings, now=datetime.now(UTC))


def test_an_enrolled_device_says_offline_who_is_paid(ca, configured, capsys):
    assert cli.main([*configured, "enroll", ca.token(), "--payout", "0x" + "ab" * 20]) == cli.EX_OK
    capsys.readouterr()
    assert cli.main([*configured, "rewards"]) == cli.EX_OK
    said = capsys.readouterr().out
    assert "rewards go to 0x" + "ab" * 20 in said
    assert "no round has counted this device yet" in said


def test_outside_of_the_unit_a_sealed_device_can_still_be_looked_at(device, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    emptied(device.folder / "identity.key")
    with pytest.raises(KeyFileError):
        record.load(device.folder)
    assert record.look(device.folder).device_id == device.device_id


def test_a_sealed_chain_key_is_named_where_it_is(ca, configured, tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert cli.main([*configured, "enroll", ca.token()]) == cli.EX_OK
    assert rewards.rewards_of(tmp_path / "d").key_file == tmp_path / "d" / "chain.key"
    emptied(tmp_path / "d" / "chain.key")
    found = dataclasses.replace(rewards.rewards_of(tmp_path / "d"), counted=(rewards.CountedRounds("digits", 1, 1),))
    assert "only with /etc/credstore.encrypted/fedge.chain.key: keep a copy" in found.text()
