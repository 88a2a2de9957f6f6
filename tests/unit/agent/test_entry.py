import subprocess
import sys

import pytest

from fedge_agent.entry import is_plain_run

ENTRY = [sys.executable, "-m", "fedge_agent.entry"]


@pytest.mark.parametrize("words", [["run"], ["--config", "/etc/fedge/agent.toml", "run"]])
def test_what_the_unit_says_needs_no_parser(words):
    assert is_plain_run(words)


@pytest.mark.parametrize(
    "words", [[], ["status"], ["run", "-h"], ["--config", "run"], ["--config=x", "run"], ["-h"], ["run", "run", "run"]]
)
def test_everything_else_goes_to_the_parser(words):
    assert not is_plain_run(words)


def test_other_commands_work_from_here_too():
    done = subprocess.run([*ENTRY, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "fedge-agent config check" in done.stdout


def test_a_faulty_configuration_ends_the_daemon_with_78_and_its_faults(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text("log_level = 'loud'\n")
    done = subprocess.run([*ENTRY, "--config", str(path), "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"{path}:1: log_level: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path):
    command = [*ENTRY, "--config", str(tmp_path / "none.toml"), "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "none.toml: no such file" in done.stderr
