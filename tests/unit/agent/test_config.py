from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_agent import config
from fedge_agent.admission.policy import AdmissionPolicy, Mark
from fedge_agent.config import Config, ConfigError, load

WHOLE = """\
state_dir = "/srv/fedge"
runtime_dir = "/srv/run"
log_level = "debug"

[consent]
allow_small_cohort = false
minimum_cohort = 24
max_epochs = 7
max_parameters = 1000

[sources.watch]
kind = "directory"
path = "/srv/watch"

[kernel]
network = "require"

[worker]
memory_max_mib = 200

[admission]
cpu_some = [0.1, 0.2]
require_mains = true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def faults(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_a_whole_file_is_read(path):
    path.write_text(WHOLE)
    found = load(path)
    assert found.state_dir == Path("/srv/fedge")
    assert found.control_socket == Path("/srv/run/control.sock")
    assert found.consent.sources == {"watch"}
    assert (found.consent.minimum_cohort, found.consent.max_epochs, found.consent.max_dim) == (24, 7, 1000)
    assert found.sources["watch"].path == "/srv/watch"
    assert found.kernel.network == "require"
    assert found.worker.memory_max_mib == 200
    assert found.admission == AdmissionPolicy(cpu_some=Mark(0.1, 0.2), require_mains=True)


def test_an_empty_file_means_all_defaults(path):
    path.touch()
    found = load(path)
    assert found.consent.minimum_cohort == 16
    assert not found.consent.allow_small_cohort
    assert found.consent.sources == frozenset()
    assert found.state_dir == Path("/var/lib/fedge")


def test_a_missing_file_is_an_error_unless_it_is_the_default_one(path, monkeypatch):
    with pytest.raises(ConfigError, match="no such file; copy"):
        load(path)
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    assert load(path).log_level == "info"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('log_level = "loud"', "1: log_level:"),
        ('\nstate_dir = "relative"', "2: state_dir:"),
        ("[consent]\nminimum_cohort = 15", "2: consent.minimum_cohort:"),
        ("[consent]\n\nmax_epochs = 0", "3: consent.max_epochs:"),
        ('[consent]\nallow_small_cohort = "yes"', "2: consent.allow_small_cohort:"),
        ("[consent]\nminimum = 16", "2: consent.minimum:"),
        ('[sources.watch]\nkind = "kernel"\npath = "/srv"', "2: sources.watch.kind:"),
        ('[sources.watch]\nkind = "directory"\npath = "srv"', "3: sources.watch.path:"),
        ('[sources.watch]\nkind = "directory"', "1: sources.watch"),
        ('[kernel]\nnetwork = "maybe"', "2: kernel.network:"),
        ("[worker]\nmemory_max_mib = 1", "2: worker.memory_max_mib:"),
        ("colour = 1", "1: colour:"),
        ("[admission]\ncpu_some = [0.2, 0.1]", "1: admission: "),
        ("[admission]\ncpu = 1", "1: admission: "),
        ("admission = 3", "1: admission: "),
    ],
)
def test_a_fault_is_told_with_its_line_and_setting(path, text, start):
    (line,) = faults(path, text)
    assert line.startswith(start), line


def test_every_fault_is_told_at_once(path):
    lines = faults(path, 'log_level = "loud"\n[consent]\nmax_epochs = 0\n[worker]\ncpu_max_percent = 0\n')
    assert [line.split(":")[0] for line in lines] == ["1", "3", "5"]


def test_what_is_no_toml_no_text_or_too_long_is_told(path):
    assert "line 1" in faults(path, "= 1")[0]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="utf-8"):
        load(path)
    path.write_text("#" * 300_000)
    with pytest.raises(ConfigError, match="more than"):
        load(path)
    with pytest.raises(ConfigError, match="directory"):
        load(path.parent)
    assert faults(path, "a = " + "[" * 100_000)


def test_fewer_devices_than_the_secure_floor_are_accepted_only_by_name(path):
    path.write_text("[consent]\nallow_small_cohort = true")
    assert load(path).consent.allow_small_cohort


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(WHOLE.splitlines()), max_size=12).map("\n".join)
    | st.tuples(st.sampled_from(WHOLE.splitlines()), st.text(max_size=10)).map(" ".join)
)
def test_any_text_is_a_configuration_or_an_error_with_its_place(path, text):
    path.write_text(text, encoding="utf-8")
    with suppress(ConfigError):
        assert isinstance(load(path), Config)
