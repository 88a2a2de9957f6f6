"""With CI=true a skip that allowed-skips.txt does not name is a failure: a suite that skips everything is not green.

A shell starts what runs in its background with SIGINT ignored, and children inherit that; tests that interrupt a
program want it as a terminal gives it.
"""

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed-skips.txt")


def pytest_configure() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def allowed_reasons() -> list[re.Pattern[str]]:
    """One regular expression a line; `#` begins a comment line."""
    lines = (line.strip() for line in ALLOWED.read_text().splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip whose reason is not on the list into a failure; an expected failure is no skip."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(pattern.search(reason) for pattern in allowed_reasons()):
        return
    report.outcome = "failed"
    report.longrepr = f"{reason}\nCI skips only what {ALLOWED.name} names: provide what is missing, or name it."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report
