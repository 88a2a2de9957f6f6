"""What an unprivileged user, the daemon's own included, can do to the pins: nothing."""

import fcntl
import os
import subprocess

import pytest

from fedge_agent.kernel.programs import MAPS

NOBODY = 65534
LOCK = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
except PermissionError:
    sys.exit("refused")
print("locked", flush=True)
sys.stdin.read()
"""


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("mode", ["755", "777"])
def test_a_pin_directory_that_somebody_else_made_is_refused(fedge_bpf, bpffs, cgroup, pin_dir, client, mode):
    assert as_nobody("mkdir", "-m", mode, str(pin_dir)).returncode == 0, "a BPF file system mounted by hand is open"
    refused = fedge_bpf("attach", "--cgroup", str(cgroup), check=False)
    assert refused.returncode == 1
    assert f"{pin_dir} belongs to uid {NOBODY}" in refused.stderr
    unguarded = fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "prefer")
    assert "network admission is off" in unguarded.stderr
    assert list(pin_dir.iterdir()) == []
    pin_dir.rmdir()
    fedge_bpf("attach", "--cgroup", str(cgroup))
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"


def test_a_link_in_place_of_the_pin_directory_is_refused(fedge_bpf, bpffs, cgroup, pin_dir):
    (bpffs / "elsewhere").mkdir()
    pin_dir.symlink_to(bpffs / "elsewhere")
    refused = fedge_bpf("attach", "--cgroup", str(cgroup), check=False)
    assert refused.returncode == 1
    assert "no directory that root alone changes" in refused.stderr
    assert list((bpffs / "elsewhere").iterdir()) == []
    pin_dir.unlink()


def test_a_reader_of_the_maps_cannot_hold_the_loader_up(fedge_bpf, cgroup, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--reader-gid", str(NOBODY))
    tried = as_nobody("/usr/bin/python3", "-c", LOCK, str(pin_dir))
    assert (tried.returncode, tried.stderr.strip()) == (1, "refused")
    for item in MAPS:
        found = as_nobody("stat", "-c", "%n", str(pin_dir / item.name))
        assert found.returncode == 0, "by name the maps are there"
    descriptor = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
