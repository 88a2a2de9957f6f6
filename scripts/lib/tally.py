"""Print how many tests of a JUnit report passed, failed and were skipped: three numbers.

Usage: tally.py REPORT
"""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def tally(report: str) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit report; one that failed twice, as in its clean-up, counts once."""
    passed = failed = skipped = 0
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


if __name__ == "__main__":
    print(*tally(Path(sys.argv[1]).read_text(encoding="utf-8")))
