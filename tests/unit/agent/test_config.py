from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_agent import config_layers
from fedge_agent.admission.policy import AdmissionPolicy, Mark
from fedge_agent.config import Config, ConfigError, load
from fedge_agent.config_origins import settings_of
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_file import read_config

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
    monkeypatch.setattr(config_layers, "DEFAULT_PATH", path)
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
        ("[admission]\ncpu_some = [0.2, 0.1]", "2: admission.cpu_some: "),
        ("[admission]\ncpu = 1", "2: admission.cpu: "),
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


def layered(path: Path, **files: str) -> None:
    """The main file from `agent`, the others into agent.d."""
    path.write_text(files.pop("agent", ""))
    (path.parent / "agent.d").mkdir()
    for name, text in files.items():
        (path.parent / "agent.d" / f"{name}.toml").write_text(text)


def test_the_last_layer_wins_and_tables_are_joined(path):
    layered(
        path,
        agent=WHOLE,
        b_second="[worker]\nmemory_max_mib = 400\ncpu_max_percent = 50\n[admission]\nrounds_a_day = 2",
        a_first='[worker]\nmemory_max_mib = 300\n[sources.other]\nkind = "directory"\npath = "/srv/other"',
    )
    found = load(path, {"FEDGE_CONSENT__MAX_EPOCHS": "3", "FEDGE_ADMISSION__CPU_SOME": "[0.2, 0.3]"})
    assert (found.worker.memory_max_mib, found.worker.cpu_max_percent) == (400, 50)
    assert found.consent.sources == {"watch", "other"}
    assert (found.consent.minimum_cohort, found.consent.max_epochs) == (24, 3)
    assert found.admission == AdmissionPolicy(cpu_some=Mark(0.2, 0.3), require_mains=True, rounds_a_day=2)


def test_only_toml_files_of_agent_d_that_are_not_hidden_are_read(path):
    layered(path)
    for name in (".hidden.toml", "50-x.toml.dpkg-old", "50-x.toml~", "README"):
        (path.parent / "agent.d" / name).write_text('log_level = "debug"')
    assert load(path, {}).log_level == "info"


def test_a_fault_of_any_layer_is_told_with_its_file_and_line_even_where_a_later_one_replaces_it(path):
    layered(path, agent='log_level = "loud"', a="\n[worker]\nmemory = 3", b='log_level = "info"')
    with pytest.raises(ConfigError) as caught:
        load(path, {"FEDGE_WORKER__CPU_MAX_PERCENT": "lots", "FEDGE_CONSENT__MAX_EPOCH": "3"})
    folder = path.parent / "agent.d"
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{path}:1", "log_level"],
        [f"{folder}/a.toml:3", "worker.memory"],
        ["environment", "FEDGE_CONSENT__MAX_EPOCH"],
        ["environment", "FEDGE_WORKER__CPU_MAX_PERCENT"],
    ]
    assert "did you mean 'memory_max_mib'?" in lines[1]
    assert "did you mean 'max_epochs'?" in lines[2]


def test_what_is_missing_from_all_layers_together_is_told_where_it_is_missing(path):
    layered(path, agent='[sources.watch]\nkind = "directory"', b='[sources.watch]\npath = "/srv"')
    assert load(path, {}).sources["watch"].path == "/srv"
    (path.parent / "agent.d" / "b.toml").write_text('\n[sources.other]\nkind = "directory"')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        [f"{path}:1", "sources.watch.path"],
        [f"{path.parent}/agent.d/b.toml:2", "sources.other.path"],
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("FEDGE_KERNEL__NETWORK", "off", "takes nothing from the environment"),
        ("FEDGE_KERNEL__ALLOW", '["0.0.0.0/0:1/tcp"]', "takes nothing from the environment"),
        ("FEDGE_RUNTIME_DIR", "/srv", "takes nothing from the environment"),
        ("FEDGE_COLOUR__X", "1", "unknown field"),
        ("FEDGE___X", "1", "names no setting"),
        ("FEDGE_WORKER__MEMORY_MAX_MIB", "", "expected int"),
        ("FEDGE_WORKER__MEMORY_MAX_MIB", "200\n[kernel]", "expected int"),
        ("FEDGE_WORKER__MEMORY_MAX_MIB__X", "1", "expected int"),
        ("FEDGE_CONSENT__ALLOW_SMALL_COHORT", "yes", "expected true or false"),
        ("FEDGE_LOG_LEVEL", "x" * 20_000, "more than 16384"),
    ],
)
def test_a_variable_that_cannot_be_a_setting_is_refused_by_its_name(path, name, text, words):
    path.touch()
    with pytest.raises(ConfigError) as caught:
        load(path, {name: text})
    assert str(caught.value).startswith(f"environment: {name}: ")
    assert words in str(caught.value)


def test_variables_of_other_programs_are_left_alone(path):
    path.touch()
    others = {"FEDGE_SOCKET": "/run/x", "FEDGE_PIN_DIR": "/run/y", "FEDGE_LOGLEVEL": "debug", "HOME": "/root"}
    assert load(path, others).log_level == "info"


def test_every_setting_is_shown_with_the_place_that_set_it(path):
    layered(path, agent=WHOLE, b="[worker]\nmemory_max_mib = 300")
    found = {s.name: s for s in settings_of(load(path, {"FEDGE_LOG_LEVEL": "error"}))}
    assert (found["log_level"].value, found["log_level"].origin) == ("error", "environment: FEDGE_LOG_LEVEL")
    assert found["worker.memory_max_mib"].origin == f"{path.parent}/agent.d/b.toml:2"
    assert found["sources.watch.path"].origin == f"{path}:13"
    assert found["admission.cpu_some"].value == [0.1, 0.2]
    assert found["admission.io_some"].origin == "default"
    assert found["admission.io_some"].value == [0.05, 0.2]
    assert not found["consent.minimum_cohort"].is_default


def test_the_loader_that_runs_as_root_reads_the_same_files_and_no_environment(path, monkeypatch):
    layered(
        path,
        agent='[kernel]\nnetwork = "require"\nallow = ["192.0.2.1:1/tcp"]\nrate_kib_per_s = 5',
        b='runtime_dir = "/srv/run"\n[kernel]\nnetwork = "audit"\nallow = ["192.0.2.2:2/tcp"]',
    )
    monkeypatch.setenv("FEDGE_KERNEL__NETWORK", "off")
    loader, daemon = read_config(path), load(path, {})
    assert (loader.mode, daemon.kernel.network) == ("audit", "audit")
    assert tuple(rule.text for rule in loader.rules) == daemon.kernel.allow == ("192.0.2.2:2/tcp",)
    assert loader.rate_bytes_per_s == 5 * 1024
    assert str(loader.endpoints) == "/srv/run-bpf/endpoints"


def test_the_loader_tells_the_drop_ins_line_and_believes_nothing_that_others_may_write(path):
    layered(path, b='\n[kernel]\nallow = [\n  "192.0.2.2:2/tcp",\n  "nonsense",\n]')
    folder = path.parent / "agent.d"
    with pytest.raises(PolicyError, match=f"{folder}/b.toml:5: "):
        read_config(path)
    with pytest.raises(ConfigError, match=f"{folder}/b.toml:5: "):
        load(path, {})
    (folder / "b.toml").write_text("")
    (folder / "b.toml").chmod(0o664)
    with pytest.raises(PolicyError, match=f"chmod go-w {folder}/b.toml"):
        read_config(path)
    (folder / "b.toml").chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(PolicyError, match=f"chmod go-w {folder}$"):
        read_config(path)


NETWORK = '[network]\nbroker = "wss://mq.example/mqtt"\nproxy = "http://proxy.example:3128"\n'


def test_the_way_out_is_read_by_the_daemon_and_by_the_loader_alike(path):
    path.write_text(NETWORK)
    found, loaded = load(path).network, read_config(path)
    assert (found.broker, found.proxy, found.proxy_credentials) == (
        "wss://mq.example/mqtt",
        "http://proxy.example:3128",
        None,
    )
    assert loaded.broker is not None
    assert loaded.proxy is not None
    assert (loaded.broker.rule.where, loaded.broker.rule.port) == ("mq.example", 443)
    assert (loaded.proxy.rule.where, loaded.proxy.rule.port, loaded.proxy.place) == ("proxy.example", 3128, f"{path}:3")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('broker = "mq.example:8883"', "network.broker: 'mq.example:8883' is no broker; write mqtts://"),
        ('broker = "wss://mq.example:99999"', "network.broker: rule 'mq.example:99999/tcp': port 99999"),
        ('proxy = "socks5://proxy"', "network.proxy: 'socks5://proxy' is no proxy; write http://"),
        ('proxy = "http://u:hush@proxy:1"', "network.proxy: a proxy with credentials"),
    ],
)
def test_a_way_out_that_cannot_be_used_is_told_with_its_line_by_both(path, line, words):
    (told,) = faults(path, f"[network]\n\n{line}\n")
    assert told.startswith("3: ")
    assert words in told
    with pytest.raises(PolicyError) as caught:
        read_config(path)
    assert str(caught.value) == f"{path}:{told}"
    assert "hush" not in told
