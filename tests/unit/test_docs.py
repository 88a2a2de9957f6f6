"""The pages say what the code says: every message, field, reason, event, metric, setting and exit status is there."""

import dataclasses
import inspect
import re
from pathlib import Path

import msgspec
import pytest

from fedge_agent import config as agent_config
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.kernel.programs import Feature
from fedge_coordinator import config as coordinator_config
from fedge_coordinator.metrics import Metrics
from fedge_protocol import messages
from fedge_protocol.errors import Reason

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COORDINATOR = ROOT / "coordinator" / "fedge_coordinator"
PAGES = sorted(DOCS.glob("*.md"))
PARTS = {
    "BlobRef",
    "Training",
    "Cohort",
    "PrekeyStatement",
    "Entrant",
    "Seat",
    "SignedBy",
    "UnmaskAnswer",
    "UnmaskShares",
}
"""Structs that stand inside messages."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by the code in their first cell."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (named := re.fullmatch(r"`([^`]+)`", cells[0])):
            found[named[1]] = cells[1:]
    return found


def bodies() -> dict[str, tuple[str, ...]]:
    found = inspect.getmembers(messages, inspect.isclass)
    kinds = [kind for _, kind in found if issubclass(kind, messages.Body) and kind is not messages.Body]
    return {kind.__name__: kind.__struct_fields__ for kind in kinds}


@pytest.mark.parametrize("name", bodies())
def test_each_message_stands_in_the_protocol_with_its_fields_in_order(name: str):
    cells = rows(page("protocol.md"))[name]
    assert ", ".join(bodies()[name]) in cells


def test_the_protocol_describes_no_message_that_there_is_not():
    described = {name for name in rows(page("protocol.md")) if re.fullmatch("[A-Z][A-Za-z]+", name)}
    assert described - bodies().keys() == {"RoundRecord", "EpochDocument"}


@pytest.mark.parametrize("kind", [*messages.Up, *messages.Down])
def test_each_kind_stands_in_the_protocol(kind: str):
    assert f"`{kind}`" in page("protocol.md")


def test_each_reason_stands_in_the_protocol_once():
    listed = re.findall(r"^\| `([a-z-]+)` \|", page("protocol.md"), re.MULTILINE)
    assert [name for name in listed if name in set(Reason)] == [str(reason) for reason in Reason]


@pytest.mark.parametrize("name", sorted(bodies().keys() - PARTS))
def test_each_message_has_its_line_in_the_threat_model(name: str):
    assert name in rows(page("threat-model.md"))


def test_each_event_of_the_coordinator_stands_in_operations():
    paths = [path for path in COORDINATOR.rglob("*.py") if "demo" not in path.parts]
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    names = set(re.findall(r'(?:_tell|Event)\(\s*f?"([a-z-]+)"', source))
    names |= set(re.findall(r'"(device-(?:online|offline))"', source))
    assert len(names) > 10
    missing = {name for name in names if f"`{name}`" not in page("operations.md")}
    assert missing == set()


def test_each_metric_stands_in_operations():
    named = {metric.name for metric in Metrics("0").registry.collect()}
    named |= {"fedge_coordinator_devices", "fedge_coordinator_jobs"}
    assert {name for name in named if name not in page("operations.md")} == set()


def settings(struct: type[msgspec.Struct]) -> set[str]:
    """Names of all settings and tables of a configuration file."""
    found = set()
    for field in msgspec.structs.fields(struct):
        found.add(field.name)
        parts = (field.type, *getattr(field.type, "__args__", ()))
        for table in (part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)):
            found |= settings(table)
    return found


def shown(text: str) -> set[str]:
    """What begins a line, or the first cell of a row, as a setting or a table of settings does."""
    return set(re.findall(r"^[#|` ]*\[?([a-z][a-z0-9_]+)", text, re.MULTILINE))


def test_each_setting_of_the_agent_stands_in_operations():
    named = settings(agent_config.File) | {field.name for field in dataclasses.fields(AdmissionPolicy)} - {"places"}
    assert len(named) > 40
    assert named - shown(page("operations.md")) == set()


def test_each_setting_of_the_coordinator_stands_in_operations():
    named = settings(coordinator_config.Config)
    assert len(named) > 15
    assert named - shown(page("operations.md")) == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_the_pages_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("feature", list(Feature))
def test_each_feature_of_the_kernel_layer_is_named_in_operations(feature: Feature):
    assert f"`{feature.value}`" in page("operations.md")
