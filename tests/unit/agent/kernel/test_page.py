"""docs/kernel.md tells what the code does."""

import itertools
import re
from pathlib import Path

from fedge_agent.config import KernelTable
from fedge_agent.kernel.features import FEATURE_TABLE, VECTOR_VERSION
from fedge_agent.kernel.programs import PROGRAMS
from fedge_protocol.conditions import ConditionReason as Reason

PAGE = (Path(__file__).parents[4] / "docs" / "kernel.md").read_text()


def rows(heading: str) -> list[tuple[str, ...]]:
    """The cells of the table that begins with these headings."""
    lines = PAGE[PAGE.index(heading) :].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in table]


def test_every_feature_stands_there_with_unit_source_and_substitute_in_the_order_of_the_vector():
    told = [(str(i), f.name, f.unit, f.source, f.substitute or "none: missing") for i, f in enumerate(FEATURE_TABLE)]
    assert rows("| # | feature |") == told
    assert f"Vector version {VECTOR_VERSION}," in PAGE


def test_every_program_stands_there_with_its_substitute():
    told = [(p.name, p.section, p.feature.value, p.substitute or "none") for p in PROGRAMS]
    assert rows("| program | attached to |") == told


def test_every_reason_of_a_refusal_is_explained():
    explained = {word for row in rows("| reason | signal |") for word in re.findall(r"[a-z-]+", row[0])}
    not_refusals = {Reason.NO_JOB, Reason.SETTLING, Reason.QUIET, Reason.STARTED, Reason.PROTECTED}
    assert explained == {reason.value for reason in set(Reason) - not_refusals}


def test_the_settings_that_the_page_names_exist():
    named = set(re.findall(r"`kernel\.([a-z_]+)`", PAGE))
    assert named <= set(KernelTable.__struct_fields__)
