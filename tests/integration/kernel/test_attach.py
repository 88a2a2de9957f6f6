"""`fedge-bpf attach | status | detach`: twice, after the cgroup was recreated, where things are missing."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

from fedge_agent.kernel import libbpf
from fedge_agent.kernel.cgroup import cgroup2_mount
from fedge_agent.kernel.programs import MAPS, PROGRAMS


def test_attach_pins_every_program_and_map_of_the_table(fedge_bpf, cgroup, pin_dir):
    report = json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json").stdout)
    assert {p["name"]: p["state"] for p in report["programs"]} == {p.name: "attached" for p in PROGRAMS}
    assert {entry.name for entry in pin_dir.iterdir()} == {p.name for p in PROGRAMS} | {m.name for m in MAPS}
    assert report["admission_enforced"] is True


def test_the_loader_has_no_capability_left_when_it_reports(fedge_bpf, cgroup):
    assert json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json").stdout)["capabilities"] == 0


def test_attaching_twice_keeps_the_cgroup_links_and_the_counters(fedge_bpf, cgroup, client, links):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    first = links()
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
    again = json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json").stdout)
    second = links()
    on_cgroup = [p.name for p in PROGRAMS if p.on_cgroup]
    assert [first[name][0] for name in on_cgroup] == [second[name][0] for name in on_cgroup]
    assert {p["change"] for p in again["programs"] if p["name"] in on_cgroup} == {"updated"}
    assert len(first) == len(second) == len(PROGRAMS)


def test_a_recreated_cgroup_is_found_and_guarded_again(fedge_bpf, cgroup, client):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    cgroup.rmdir()
    cgroup.mkdir()
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "ECONNREFUSED"
    status = fedge_bpf("status", "--cgroup", str(cgroup), "-o", "json", check=False)
    assert status.returncode == 3
    assert {p["state"] for p in json.loads(status.stdout)["programs"] if p["object"] == "admission"} == {"stale"}
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
    assert fedge_bpf("status", "--cgroup", str(cgroup)).returncode == 0


def test_attach_moves_to_another_cgroup(fedge_bpf, make_cgroup, client):
    first, second = make_cgroup(), make_cgroup()
    fedge_bpf("attach", "--cgroup", str(first))
    fedge_bpf("attach", "--cgroup", str(second))
    assert client(first).ask("tcp", "127.0.0.1", 9) == "ECONNREFUSED"
    assert client(second).ask("tcp", "127.0.0.1", 9) == "EPERM"


def test_two_agents_have_their_own_pins_and_policies(objects, make_cgroup, fedge_bpf, pin_dir, client):
    other_pins, first, second = pin_dir.parent / "other", make_cgroup(), make_cgroup()
    fedge_bpf("attach", "--cgroup", str(first))
    command = [sys.executable, "-m", "fedge_agent.kernel.loader"]
    allow = ["--allow", "127.0.0.1:9/tcp", "--object-dir", str(objects), "--pin-dir", str(other_pins)]
    subprocess.run([*command, "attach", "--cgroup", str(second), *allow], check=True, capture_output=True)
    try:
        assert client(first).ask("tcp", "127.0.0.1", 9) == "EPERM"
        assert client(second).ask("tcp", "127.0.0.1", 9) == "ECONNREFUSED"
    finally:
        subprocess.run([*command, "detach", "--pin-dir", str(other_pins)], check=True, capture_output=True)
    assert client(first).ask("tcp", "127.0.0.1", 9) == "EPERM"


def test_detach_opens_the_network_again_and_leaves_nothing(fedge_bpf, cgroup, client, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    fedge_bpf("detach")
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "ECONNREFUSED"
    assert not pin_dir.exists()
    assert fedge_bpf("status", check=False).returncode == 3


def test_without_tracefs_the_network_is_guarded_and_telemetry_names_its_substitutes(fedge_bpf, cgroup, client):
    if os.path.isdir("/sys/kernel/tracing/events"):  # noqa: PTH112 - one question
        pytest.skip("tracefs is mounted here; umount /sys/kernel/tracing to run this")
    report = json.loads(fedge_bpf("attach", "--cgroup", str(cgroup), "-o", "json", tracefs=False).stdout)
    absent = [p for p in report["programs"] if p["state"] == "absent"]
    assert {p["object"] for p in absent} == {"telemetry"}
    assert all("mount -t tracefs" in p["detail"] and p["substitute"] for p in absent)
    assert report["admission_enforced"] is True
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"


def test_an_older_versions_map_of_another_shape_is_replaced(fedge_bpf, cgroup, client, pin_dir):
    pin_dir.mkdir()
    lib = libbpf.library()
    lib.bpf_map_create.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_void_p,
    )
    lib.bpf_obj_pin.argtypes = (ctypes.c_int, ctypes.c_char_p)
    percpu_array = 6
    old = libbpf.checked(lib.bpf_map_create(percpu_array, b"fedge_count", 4, 8, 3, None), "make a map")
    libbpf.checked(lib.bpf_obj_pin(old, os.fsencode(pin_dir / "fedge_count")), "pin it")
    os.close(old)
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"


def test_a_pin_directory_that_is_not_on_bpffs_is_refused_with_the_cure(objects, cgroup, tmp_path):
    command = [sys.executable, "-m", "fedge_agent.kernel.loader", "attach", "--cgroup", str(cgroup)]
    done = subprocess.run([*command, "--pin-dir", str(tmp_path / "x")], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "mount -t bpf bpf /sys/fs/bpf" in done.stderr


def test_what_is_no_cgroup_of_an_agent_is_refused(fedge_bpf, tmp_path):
    assert "is not a cgroup v2 directory" in fedge_bpf("attach", "--cgroup", str(tmp_path), check=False).stderr
    assert "the whole machine" in fedge_bpf("attach", "--cgroup", str(cgroup2_mount()), check=False).stderr


def test_readers_that_cannot_reach_the_pins_are_warned_about(fedge_bpf, cgroup, pin_dir):
    pin_dir.parent.chmod(0o700)
    assert f"chmod o+x {pin_dir.parent}" in fedge_bpf("attach", "--cgroup", str(cgroup), "--reader-gid", "65534").stderr
    pin_dir.parent.chmod(0o755)
    assert fedge_bpf("attach", "--cgroup", str(cgroup), "--reader-gid", "65534").stderr == ""


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_policy_file_that_others_may_write_is_refused(fedge_bpf, cgroup, tmp_path, mode):
    policy = tmp_path / "allow"
    policy.write_text("127.0.0.1:9/tcp  # discard\n")
    policy.chmod(mode)
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--policy", str(policy), check=False)
    assert done.returncode == 78
    assert "chmod go-w" in done.stderr


def test_a_policy_file_is_followed(fedge_bpf, cgroup, client, tmp_path):
    policy = tmp_path / "allow"
    policy.write_text("# the broker\n127.0.0.1:9/tcp  # discard\n\n")
    policy.chmod(0o644)
    fedge_bpf("attach", "--cgroup", str(cgroup), "--policy", str(policy))
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "ECONNREFUSED"
    assert client(cgroup).ask("tcp", "127.0.0.1", 10) == "EPERM"
