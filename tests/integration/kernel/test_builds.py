"""Which compiler the loader takes: the object where it fits, bcc where it does not, else the substitute."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedge_agent.kernel import programs
from fedge_agent.kernel.programs import PROGRAMS, ObjectName, programs_of

AGENT = Path(__file__).parents[3] / "agent"
CHOOSE = """
import json, sys
from pathlib import Path
from fedge_agent.kernel.builds import Sources, load_telemetry
loaded = load_telemetry(Sources(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]))
print(json.dumps([loaded.compiler.value, loaded.left_out]))
loaded.build.close()
"""


def format_of(fields: tuple[programs.TracepointField, ...]) -> str:
    return "".join(f"\tfield:int {f.name};\toffset:{f.offset};\tsize:{f.size};\tsigned:0;\n" for f in fields)


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    """The formats that the objects were compiled for."""
    place = tmp_path / "tracing"
    for program in programs_of(ObjectName.TELEMETRY):
        file = place / "events" / "/".join(program.tracepoint) / "format"
        file.parent.mkdir(parents=True)
        file.write_text(format_of(program.fields))
    return place


WITHOUT_BCC = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /usr/lib/python3/dist-packages && exec "$@"', "sh")


def choose(objects: Path, pins: Path, tracefs: Path, *wrapper: str) -> tuple[str, dict[str, str]]:
    command = [*wrapper, sys.executable, "-c", CHOOSE, str(objects), str(pins), str(tracefs)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(AGENT)}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    compiler, left_out = json.loads(done.stdout)
    return compiler, left_out


def swap_wakeup_fields(tracefs: Path) -> None:
    for event in ("sched_wakeup", "sched_wakeup_new"):
        file = tracefs / "events/sched" / event / "format"
        swapped = file.read_text().replace("offset:24", "offset:X").replace("offset:28", "offset:24")
        file.write_text(swapped.replace("offset:X", "offset:28"))


def test_a_kernel_with_the_compiled_layout_gets_the_object(objects, bpffs, tracefs):
    assert choose(objects, bpffs, tracefs) == ("object", {})


def test_a_kernel_with_another_layout_gets_programs_that_bcc_compiled_for_it(objects, bpffs, tracefs, bcc_installed):
    swap_wakeup_fields(tracefs)
    assert choose(objects, bpffs, tracefs) == ("bcc", {})


def test_without_bcc_only_the_misfits_are_left_out_and_the_reason_names_the_cure(objects, bpffs, tracefs):
    swap_wakeup_fields(tracefs)
    compiler, left_out = choose(objects, bpffs, tracefs, *WITHOUT_BCC)
    assert compiler == "object"
    assert set(left_out) == {"fedge_wakeup", "fedge_wake_new"}
    assert all("compiled for" in why and "apt install python3-bpfcc" in why for why in left_out.values())


def test_a_kernel_without_one_tracepoint_gets_the_object_without_that_program(objects, bpffs, tracefs):
    shutil.rmtree(tracefs / "events/oom")
    compiler, left_out = choose(objects, bpffs, tracefs)
    assert compiler == "object"
    assert left_out == {"fedge_oom": "this kernel has no tracepoint oom:mark_victim"}


@pytest.mark.parametrize("compiler", ["auto"], indirect=True)
def test_where_the_object_is_missing_bcc_guards_the_network(fedge_bpf, objects, cgroup, client, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ObjectName:
        shutil.copy(objects / name.expanded_name, sources)
    report = json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json", objects=sources).stdout)
    admission = [p for p in report["programs"] if p["object"] == "admission"]
    assert {p["compiler"] for p in admission} == {"bcc"}
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"


@pytest.mark.parametrize("compiler", ["auto"], indirect=True)
def test_each_compiler_takes_over_from_the_other_without_a_moment_unguarded(
    fedge_bpf, cgroup, client, links, bcc_installed
):
    """The cgroup links stay the same links; only the programs behind them change."""
    seen = []
    for compiler in ("object", "bcc", "object"):
        report = json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json", compiler=compiler).stdout)
        assert {p["compiler"] for p in report["programs"]} == {compiler}
        assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
        seen.append({p.name: links()[p.name][0] for p in PROGRAMS if p.on_cgroup})
    assert seen[0] == seen[1] == seen[2]


HAMMER = """
import socket, sys, time
end, passed, refused = time.monotonic() + float(sys.argv[2]), 0, 0
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while time.monotonic() < end:
    try:
        one.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
        passed += 1
    except PermissionError:
        refused += 1
print(passed, refused)
"""


@pytest.mark.parametrize("compiler", ["auto"], indirect=True)
def test_not_one_packet_slips_through_while_both_compilers_take_turns(fedge_bpf, cgroup, bcc_installed):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        fedge_bpf("attach", "--cgroup", str(cgroup))
        inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
        command = [*inside, sys.executable, "-c", HAMMER, str(port), "6"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hammer:
            assert hammer.stdout is not None
            assert hammer.stdout.readline() == "ready\n"
            turns = 0
            while hammer.poll() is None:
                fedge_bpf("attach", "--cgroup", str(cgroup), compiler=("bcc", "object")[turns % 2])
                fedge_bpf("refresh", "--allow", "127.0.0.1:1/tcp")
                turns += 1
            passed, refused = (int(word) for word in hammer.stdout.read().split())
        assert turns >= 2
        assert passed == 0
        assert refused > 100
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recv(1)
