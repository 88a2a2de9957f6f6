"""What scripts/ installs is locked: every version with its hashes, and nothing of where it came from."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^ ;]+)(?: ; .+?)? \\$", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(text: str) -> list[tuple[str, list[str]]]:
    """(name, hashes) of every entry of a lock."""
    starts = list(ENTRY.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return [
        (start["name"], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text[start.end() : end]))
        for start, end in zip(starts, ends, strict=True)
    ]


def test_every_locked_package_has_hashes_and_every_line_is_understood() -> None:
    for lock in ("dev.txt", "dataset.txt"):
        text = (REQUIREMENTS / lock).read_text()
        found = entries(text)
        assert found
        assert [name for name, hashes in found if not hashes] == []
        lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
        assert len(lines) == len(found)


def test_no_lock_names_an_index() -> None:
    for lock in REQUIREMENTS.iterdir():
        assert re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", lock.read_text()) is None, lock.name


def test_everything_that_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    asked = {normal(re.split(r"[<>=!~;\[ ]", one)[0]) for one in [*project["dependencies"], *extras]}
    locked = {normal(name) for name, _ in entries((REQUIREMENTS / "dev.txt").read_text())}
    assert asked - locked == set(), "run scripts/lock and commit"


def test_the_tool_that_builds_packages_is_locked_too() -> None:
    assert "setuptools" in dict(entries((REQUIREMENTS / "dev.txt").read_text()))
