import subprocess
import sys
from pathlib import Path

TALLY = Path(__file__).resolve().parents[3] / "scripts" / "lib" / "tally.py"
REPORT = """<?xml version="1.0"?><testsuites><testsuite tests="6" errors="2" failures="1" skipped="1">
<testcase name="good"/><testcase name="noisy"><system-out>text</system-out></testcase>
<testcase name="bad"><failure>why</failure></testcase>
<testcase name="bad twice"><failure>why</failure><error>in its clean-up</error></testcase>
<testcase name="broken"><error>in its fixture</error></testcase>
<testcase name="left out"><skipped/></testcase></testsuite></testsuites>"""


def test_a_report_is_added_up_test_by_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    done = subprocess.run([sys.executable, TALLY, report], check=True, capture_output=True, text=True)
    assert done.stdout == "2 3 1\n"


def test_a_report_that_was_never_written_is_no_success(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, TALLY, tmp_path / "absent.xml"], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
