import socket

import pytest

from fedge_agent import diagnosis
from fedge_agent.config import load
from fedge_agent.kernel.doctor import Grade


@pytest.fixture
def place(tmp_path):
    (tmp_path / "agent.toml").write_text(f'state_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}/run"\n')
    (tmp_path / "agent.d").mkdir()
    return tmp_path


def config(place):
    return load(place / "agent.toml", {})


def test_the_layers_are_named(place):
    (place / "agent.d" / "50-x.toml").write_text("")
    found = diagnosis.check_configuration(config(place))
    assert (found.grade, found.detail) == (Grade.OK, f"{place}/agent.toml, {place}/agent.d/50-x.toml")


def test_a_layer_that_the_loader_refuses_is_a_failure_unless_nothing_is_loaded(place):
    (place / "agent.d" / "50-x.toml").write_text("")
    (place / "agent.d" / "50-x.toml").chmod(0o666)
    found = diagnosis.check_configuration(config(place))
    assert found.grade is Grade.FAIL
    assert "chmod go-w" in found.detail
    (place / "agent.d" / "60-off.toml").write_text('[kernel]\nnetwork = "off"\n')
    assert diagnosis.check_configuration(config(place)).grade is Grade.OK


def test_a_leave_that_was_begun_is_told_with_its_cure(place):
    (place / "leaving.json").touch()
    found = next(check for check in diagnosis.run_all(config(place)) if check.name == "enrolment")
    assert (found.grade, found.cure) == (Grade.FAIL, "fedge-agent leave")


def test_whether_the_model_can_be_asked(place):
    assert diagnosis.check_inference(config(place)).detail.startswith("off: nobody listens")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/run-inference.sock")
        assert "no model has landed yet" in diagnosis.check_inference(config(place)).detail
