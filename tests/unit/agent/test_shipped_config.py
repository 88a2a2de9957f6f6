"""The agent.toml of the package: all comments, and each comment the truth."""

import re
from pathlib import Path

import pytest

from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.config import ConsentTable, KernelTable, WorkerTable, load

SHIPPED = Path(__file__).parents[3] / "debian" / "agent.toml"
EXAMPLES = {"sources", "memory_max_mib", "cpu_max_percent", "rate_kib_per_s", "daily_budget_mib"}


def settings():
    return re.findall(r"^#([a-z_0-9]+) = (.+)$", SHIPPED.read_text(), re.MULTILINE)


def with_line(tmp_path, name, value):
    path = tmp_path / "agent.toml"
    path.write_text(re.sub(rf"^#{name} = .*$", f"{name} = {value}", SHIPPED.read_text(), flags=re.MULTILINE))
    return path


def test_as_shipped_everything_has_its_default(tmp_path):
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    shipped, default = load(SHIPPED), load(empty)
    for part in ("state_dir", "runtime_dir", "log_level", "consent", "sources", "kernel", "worker", "admission"):
        assert getattr(shipped, part) == getattr(default, part)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in settings() if n not in EXAMPLES | {"kind", "path"}])
def test_every_default_in_a_comment_is_the_default(tmp_path, name, value):
    uncommented, shipped = load(with_line(tmp_path, name, value)), load(SHIPPED)
    for part in ("log_level", "consent", "kernel", "worker", "admission"):
        assert getattr(uncommented, part) == getattr(shipped, part)


@pytest.mark.parametrize("name", sorted(EXAMPLES - {"sources"}))
def test_every_example_is_accepted(tmp_path, name):
    value = dict(settings())[name]
    assert load(with_line(tmp_path, name, value)) != load(SHIPPED)


def test_the_example_of_a_data_source_is_accepted(tmp_path):
    path = tmp_path / "agent.toml"
    lines = re.sub(r"^#(?=\[sources|kind = |path = )", "", SHIPPED.read_text(), flags=re.MULTILINE)
    path.write_text(lines)
    assert load(path).sources["watch"].path == "/srv/watch"


def test_no_setting_is_left_out():
    named = {name for name, _ in settings()}
    known = {f for table in (ConsentTable, KernelTable, WorkerTable) for f in table.__struct_fields__}
    known |= set(AdmissionPolicy.__dataclass_fields__) - {"places"}
    # where things lie is the unit's business
    assert known - named - {"pin_dir", "cgroup", "address_expiry_s", "telemetry_file", "telemetry_mib"} == set()
