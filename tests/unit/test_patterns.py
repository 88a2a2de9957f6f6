"""A pattern of a value ends with `\\Z`: `$` also lets a newline follow, and one line of a log becomes two."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for part in ("protocol", "agent", "coordinator") for path in (ROOT / part).rglob("*.py"))
LOOSE = re.compile(r"""Meta\([^)]*pattern=r?"[^"]*\$"[,)]""", re.DOTALL)


def test_no_pattern_of_a_value_lets_a_newline_follow():
    found = {path.relative_to(ROOT): LOOSE.findall(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: patterns for path, patterns in found.items() if patterns} == {}


def test_the_rule_finds_a_loose_pattern():
    assert LOOSE.search('Meta(min_length=1, pattern="^[a-z]$")')
    assert not LOOSE.search(r'Meta(pattern=r"^[a-z]\Z")')
