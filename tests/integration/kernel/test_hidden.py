"""Devices that lack something: no BTF, no modules, no tracefs, no PSI, no bpffs; hidden in a mount namespace."""

import json
import subprocess
import sys

import pytest

from fedge_agent.kernel.features import FEATURES
from fedge_agent.kernel.programs import PROGRAMS

HIDE = """
for place in {places}; do
    if [ -d $place ]; then mount -t tmpfs -o ro tmpfs $place; elif [ -e $place ]; then mount --bind /dev/null $place; fi
done
exec "$@"
"""
BTF, MODULES = "/sys/kernel/btf", "/lib/modules /usr/lib/modules /usr/src"
TRACEFS = "/sys/kernel/tracing /sys/kernel/debug"
WINDOW = """
import json, sys, time
from pathlib import Path
from fedge_agent.kernel.features import FEATURES
from fedge_agent.kernel.telemetry import Telemetry
telemetry = Telemetry(Path(sys.argv[1]))
time.sleep(0.3)
vector = telemetry.window()
print(json.dumps({name: source.value for name, source in zip(FEATURES, vector.sources)}))
"""


def hiding(*places: str) -> tuple[str, ...]:
    return ("sh", "-c", HIDE.format(places=" ".join(places)), "sh")


def sources_without(places: tuple[str, ...], pin_dir: object) -> dict[str, str]:
    command = ["unshare", "-m", *hiding(*places), sys.executable, "-c", WINDOW, str(pin_dir)]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@pytest.mark.parametrize("compiler", ["object", "bcc"], indirect=True)
def test_neither_compiler_needs_btf_modules_or_kernel_headers(fedge_bpf, cgroup, client, compiler):
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json", wrapper=hiding(BTF, MODULES))
    programs = json.loads(done.stdout)["programs"]
    assert {p["name"]: (p["state"], p["compiler"]) for p in programs} == {
        p.name: ("attached", compiler) for p in PROGRAMS
    }
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"


@pytest.mark.parametrize("compiler", ["object", "auto"], indirect=True)
def test_without_tracefs_the_network_is_guarded_and_every_feature_has_its_substitute(
    fedge_bpf, cgroup, client, compiler, pin_dir
):
    wrapper = ("unshare", "-m", *hiding(BTF, MODULES, TRACEFS))
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json", tracefs=False, wrapper=wrapper)
    report = json.loads(done.stdout)
    absent = [p for p in report["programs"] if p["state"] == "absent"]
    assert {p["object"] for p in absent} == {"telemetry"}
    assert all("mount -t tracefs" in p["detail"] and p["substitute"] for p in absent)
    assert report["admission_enforced"] is True
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
    sources = sources_without((), pin_dir)
    assert {sources[name] for name in ("egress_bytes_per_s", "denials_per_s")} == {"kernel"}
    replaced = {name for name, source in sources.items() if source == "substitute"}
    assert {"execs_per_s", "retransmits_per_s", "reclaims_per_s", "oom_kills_per_s", "peers"} <= replaced


def test_without_programs_and_without_psi_what_is_left_is_named_missing(root_privilege, tmp_path):
    sources = sources_without(("/proc/pressure", "/proc/vmstat", "/proc/diskstats"), tmp_path)
    gone = {"cpu_some", "memory_some", "memory_full", "io_some", "io_full", "reclaims_per_s", "oom_kills_per_s"}
    gone |= {"block_us", "srtt_us"}
    assert {name for name in gone if sources[name] != "missing"} == set()
    assert {sources[name] for name in ("execs_per_s", "denials_per_s", "peers")} == {"substitute"}
    assert list(sources) == list(FEATURES)


def test_without_a_bpf_file_system_only_require_refuses_and_the_cure_is_named(objects, cgroup, tmp_path):
    command = [sys.executable, "-m", "fedge_agent.kernel.loader", "attach", "--cgroup", str(cgroup)]
    command += ["--pin-dir", str(tmp_path / "pins"), "--object-dir", str(objects)]
    refused = subprocess.run([*command, "--mode", "require"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "mount -t bpf" in refused.stderr
    without = subprocess.run([*command, "--mode", "prefer"], check=False, capture_output=True, text=True)
    assert without.returncode == 0
    assert "network admission is off" in without.stderr
    assert len(without.stderr.splitlines()) == 1


def test_without_the_capability_to_load_only_require_refuses(fedge_bpf, cgroup, bpffs):
    """As in a container: root, but without CAP_BPF and CAP_SYS_ADMIN."""
    drop = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all")
    refused = fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "require", wrapper=drop, check=False)
    assert refused.returncode == 1
    without = fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "prefer", wrapper=drop)
    assert "network admission is off" in without.stderr
    assert len(without.stderr.splitlines()) == 1
