from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedge_coordinator.daemon_cli import main
from fedge_coordinator.settlement.signer import LocalSigner


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_keys_are_made_once_and_are_nobody_elses(tmp_path):
    folder = tmp_path / "keys"
    first = run("keys", str(folder))
    assert first.exit_code == 0
    assert run("keys", str(folder)).output == first.output
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert f"0x{LocalSigner.from_file(path).address.hex()}" in first.output
        assert path.read_text() not in first.output
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_configuration_that_cannot_be_used_has_an_exit_status_of_its_own(tmp_path):
    found = run("run", "--config", str(tmp_path / "none.toml"))
    assert found.exit_code == 78
    assert "No such file" in found.output


@pytest.mark.parametrize("token", ["0x12", "zz", "0x" + "g" * 40, "12" * 20])
def test_a_token_that_is_no_address_is_refused_before_anything_is_deployed(tmp_path: Path, token: str):
    keys = tmp_path / "keys"
    run("keys", str(keys))
    out = tmp_path / "chain.json"
    found = run("deploy", "--rpc", "http://127.0.0.1:1", "--keys", str(keys), "--out", str(out), "--token", token)
    assert found.exit_code == 2
    assert "40 hexadecimal digits" in found.output
    assert not out.exists()


def test_contracts_are_not_deployed_twice(tmp_path):
    keys, out = tmp_path / "keys", tmp_path / "chain.json"
    run("keys", str(keys))
    out.write_text("{}")
    found = run("deploy", "--rpc", "http://127.0.0.1:1", "--keys", str(keys), "--out", str(out))
    assert found.exit_code == 2
    assert "deployed already" in found.output


def test_without_a_chain_node_deploying_says_so(tmp_path):
    keys = tmp_path / "keys"
    run("keys", str(keys))
    found = run("deploy", "--rpc", "http://127.0.0.1:1", "--keys", str(keys), "--out", str(tmp_path / "chain.json"))
    assert found.exit_code == 1
    assert "Traceback" not in found.output
