"""The suite's own rule about skips, proven on a small suite of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

TESTS = Path(__file__).resolve().parents[2]
SUITE = """
import pytest

def test_passes():
    pass

def test_named():
    pytest.skip("this kernel has no frobnicator; boot with frob=1")

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False
"""
UNNAMED = """
import pytest

def test_unnamed():
    pytest.skip("nobody installed it")
"""
WHOLE_MODULE = """
import pytest

pytest.skip("the whole file is left out", allow_module_level=True)
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "allowed-skips.txt").write_text("# a comment is no pattern: .*\n\nno frobnicator\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def run(suite: Path, *, ci: bool, workers: int = 0) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    if ci:
        environment["CI"] = "true"
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--junitxml", "report.xml"]
    done = subprocess.run(command, cwd=suite, env=environment, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


def failures(suite: Path) -> list[str]:
    cases = ET.parse(suite / "report.xml").iter("testcase")  # noqa: S314 - made by the test
    return [case.attrib["name"] for case in cases if {child.tag for child in case} & {"failure", "error"}]


def test_ci_accepts_the_skips_that_are_named(suite: Path) -> None:
    code, said = run(suite, ci=True)
    assert code == 0, said


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("text", [UNNAMED, WHOLE_MODULE], ids=["a test", "a module"])
def test_ci_fails_on_a_skip_that_is_not_named_and_says_why(suite: Path, text: str, workers: int) -> None:
    (suite / "test_other.py").write_text(text)
    code, said = run(suite, ci=True, workers=workers)
    assert code != 0
    assert len(failures(suite)) == 1
    assert "CI skips only what allowed-skips.txt names" in said
    assert "nobody installed it" in said or "the whole file is left out" in said


def test_a_person_may_skip_what_they_cannot_run(suite: Path) -> None:
    (suite / "test_other.py").write_text(UNNAMED)
    code, said = run(suite, ci=False)
    assert code == 0, said
    assert failures(suite) == []


def test_every_allowed_reason_is_told_apart_from_any_other() -> None:
    patterns = [
        line for line in (TESTS / "allowed-skips.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert [line for line in patterns if len(line) < 12 or ".*" in line] == []
