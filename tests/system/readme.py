"""README's own commands, taken from it, so that what it says is what is tested."""

import re
from functools import cache
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


@cache
def _blocks(section: str) -> tuple[str, ...]:
    text = README.read_text(encoding="utf-8").split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return tuple(re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE))


def commands(holding: str, section: str = "Install it") -> list[str]:
    """The commands of that block of a section which holds a text, in order.

    Raises:
        LookupError: none does, or more than one.
    """
    found = [block for block in _blocks(section) if holding in block]
    if len(found) != 1:
        raise LookupError(f"README.md, {section}: {len(found)} blocks hold {holding!r}, one was expected")
    joined = found[0].replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]
