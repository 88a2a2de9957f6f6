import pytest

from fedge_agent.kernel.programs import PROGRAMS
from fedge_agent.kernel.tracepoints import find_tracefs, mismatch, parse_format

WAKEUP = """name: sched_wakeup
ID: 374
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;

print fmt: "comm=%s pid=%d", REC->comm, REC->pid
"""
PROGRAM = next(p for p in PROGRAMS if p.name == "fedge_wakeup")


@pytest.fixture
def tracefs(tmp_path):
    place = tmp_path / "sys/kernel/tracing"
    (place / "events/sched/sched_wakeup").mkdir(parents=True)
    return place


def test_a_format_file_gives_offsets_and_sizes():
    assert parse_format(WAKEUP)["pid"] == (24, 4)
    assert parse_format(WAKEUP)["comm"] == (8, 16)


def test_a_matching_kernel_gets_the_program(tracefs):
    (tracefs / "events/sched/sched_wakeup/format").write_text(WAKEUP)
    assert mismatch(PROGRAM, tracefs) is None


def test_a_kernel_with_another_layout_does_not_get_the_program(tracefs):
    moved = WAKEUP.replace("offset:28", "offset:32")
    (tracefs / "events/sched/sched_wakeup/format").write_text(moved)
    assert "prio at (offset, size) (32, 4), compiled for (28, 4)" in str(mismatch(PROGRAM, tracefs))


def test_a_field_that_is_gone_leaves_the_program_out(tracefs):
    (tracefs / "events/sched/sched_wakeup/format").write_text(WAKEUP.replace("prio", "priority"))
    assert "prio at (offset, size) None" in str(mismatch(PROGRAM, tracefs))


def test_a_missing_tracepoint_or_file_system_is_named(tracefs, tmp_path):
    assert "no tracepoint sched:sched_wakeup" in str(mismatch(PROGRAM, tracefs))
    assert "mount -t tracefs" in str(mismatch(PROGRAM, None))
    assert find_tracefs(tmp_path) == str(tracefs)
    assert find_tracefs(tmp_path / "elsewhere") is None
