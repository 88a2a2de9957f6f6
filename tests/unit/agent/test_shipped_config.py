"""The agent.toml of the package: all comments, and each comment the truth."""

import re
from pathlib import Path

import pytest

from fedge_agent.config import load
from fedge_agent.config_origins import settings_of

SHIPPED = Path(__file__).parents[3] / "debian" / "agent.toml"
EXAMPLES = {"sources", "memory_max_mib", "cpu_max_percent", "rate_kib_per_s", "daily_budget_mib", "cgroup"}
EXAMPLES |= {"broker", "proxy", "proxy_credentials"}
PARTS = (
    "state_dir",
    "runtime_dir",
    "log_level",
    "consent",
    "sources",
    "kernel",
    "network",
    "worker",
    "admission",
    "inference",
)


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
    for part in PARTS:
        assert getattr(shipped, part) == getattr(default, part)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in settings() if n not in EXAMPLES | {"kind", "path"}])
def test_every_default_in_a_comment_is_the_default(tmp_path, name, value):
    uncommented, shipped = load(with_line(tmp_path, name, value)), load(SHIPPED)
    for part in PARTS:
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


def test_every_setting_of_the_code_stands_there_in_its_table_and_no_other():
    table, shown = "", set()
    for line in SHIPPED.read_text().splitlines():
        if header := re.match(r"^#?\[([a-z]+)", line):
            table = f"{header[1]}."
        elif named := re.match(r"^#([a-z_0-9]+) = ", line):
            shown.add(table + named[1])
    known = {setting.name for setting in settings_of(load(SHIPPED))}
    assert shown == known | {"sources.kind", "sources.path"}
