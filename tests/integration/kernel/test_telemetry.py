"""What the kernel's maps tell about this machine while it works, and what /proc tells instead."""

import subprocess
import sys
import time

import pytest

from fedge_agent.kernel import peers
from fedge_agent.kernel.doctor import Grade, run_checks
from fedge_agent.kernel.features import FEATURES, Source
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import MachineCounter
from fedge_agent.kernel.telemetry import Telemetry

pytestmark = pytest.mark.parametrize("compiler", ["object", "bcc"], indirect=True)
SPIN = "import time; end = time.process_time() + 0.15\nwhile time.process_time() < end: pass"


def work(count: int = 6) -> None:
    """More busy processes than CPUs, so that they wait for each other."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    for process in running:
        process.wait(timeout=60)


def sources(telemetry: Telemetry) -> dict[str, Source]:
    return dict(zip(FEATURES, telemetry.window().sources, strict=True))


def test_the_scheduler_probes_count_only_while_the_switch_is_on(fedge_bpf, cgroup, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        assert not reader.scheduler_probes_on()
        work(2)
        assert sum(reader.run_queue()) == 0
        reader.switch_scheduler_probes(on=True)
        work()
        counted = reader.run_queue()
        assert sum(counted) > 100
        assert sum(counted[10:]) > 0  # six busy processes on few CPUs wait for milliseconds
        reader.switch_scheduler_probes(on=False)
        standing = reader.run_queue()
        work(2)
        assert reader.run_queue() == standing


def test_waits_from_before_a_break_are_not_taken_for_long_ones(fedge_bpf, cgroup, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        for _ in range(5):
            reader.switch_scheduler_probes(on=True)
            work(2)
            reader.switch_scheduler_probes(on=False)
            time.sleep(0.6)
        off_longer_than = 19  # 2^19 us = 0.5 s
        reader.switch_scheduler_probes(on=True)
        before = sum(reader.run_queue()[off_longer_than:])
        work(1)
        assert sum(reader.run_queue()[off_longer_than:]) == before


def test_tasks_at_nice_19_are_left_out(fedge_bpf, cgroup, pin_dir):
    """Measured against the same work at nice 0, for the machine is never silent; of each the quietest of five runs."""
    fedge_bpf("attach", "--cgroup", str(cgroup))
    script = "import time\nfor _ in range(3000): time.sleep(0)\nfor _ in range(3000): time.sleep(1e-6)"
    with MapReader(pin_dir) as reader:
        reader.switch_scheduler_probes(on=True)
        counts: dict[str, list[int]] = {"0": [], "19": []}
        for nice in ("0", "19") * 5:
            before = sum(reader.run_queue())
            subprocess.run(["nice", "-n", nice, sys.executable, "-c", script], check=True)
            counts[nice].append(sum(reader.run_queue()) - before)
    assert min(counts["0"]) >= 3000
    assert min(counts["19"]) <= min(counts["0"]) - 2500


def test_execs_are_counted(fedge_bpf, cgroup, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        before = reader.machine()[MachineCounter.EXEC]
        for _ in range(5):
            subprocess.run(["true"], check=True)
        assert reader.machine()[MachineCounter.EXEC] >= before + 5


def test_block_requests_are_timed(fedge_bpf, cgroup, pin_dir, tmp_path):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        before = sum(reader.block())
        written = subprocess.run(
            ["dd", "if=/dev/zero", f"of={tmp_path / 'blocks'}", "bs=64k", "count=16", "oflag=direct,dsync"],
            check=False,
            capture_output=True,
            text=True,
        )
        if written.returncode != 0:
            pytest.skip(f"no direct I/O on {tmp_path}: {written.stderr.strip()[-100:]}; set TMPDIR to a disk")
        assert sum(reader.block()) >= before + 16


SPEAK = """
set -e
ip link set lo up; ip link add d0 type veth peer name d1; ip addr add 192.0.2.1/24 dev d0
ip -6 addr add 2001:db8::1/64 dev d0 nodad; ip link set d1 up; ip link set d0 up
exec "$@"
"""
TO_MANY = """
import socket
near = ["127.0.0.%d" % n for n in range(1, 40)] + ["::1"]
for address in ["192.0.2.%d" % n for n in range(2, 62)] * 3 + ["2001:db8::%x" % n for n in range(2, 22)] + near:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
        one.setblocking(False)
        one.connect_ex((address, 9))
"""


def test_peers_are_counted_once_each_whatever_the_family_and_loopback_not_at_all(fedge_bpf, cgroup, pin_dir):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        since_ns = time.monotonic_ns()
        command = ["unshare", "-n", "sh", "-c", SPEAK, "sh", sys.executable, "-c", TO_MANY]
        subprocess.run(command, check=True, capture_output=True)
        assert peers.count(reader.peers(), since_ns) == pytest.approx(80, rel=0.25)
        assert peers.count(reader.peers(), time.monotonic_ns()) == 0


def test_features_come_from_the_kernel_when_attached_and_from_proc_when_not(fedge_bpf, cgroup, pin_dir):
    bare = Telemetry(pin_dir)
    work(2)
    found = sources(bare)
    assert found["execs_per_s"] is found["retransmits_per_s"] is found["run_queue_us"] is Source.SUBSTITUTE
    assert found["egress_bytes_per_s"] is found["reclaims_per_s"] is found["oom_kills_per_s"] is Source.SUBSTITUTE
    assert found["denials_per_s"] is found["peers"] is Source.SUBSTITUTE
    bare.close()

    fedge_bpf("attach", "--cgroup", str(cgroup))
    with MapReader(pin_dir) as reader:
        reader.switch_scheduler_probes(on=True)
    full = Telemetry(pin_dir)
    work(2)
    found = sources(full)
    full.close()
    kernel = {"execs_per_s", "retransmits_per_s", "run_queue_us", "egress_bytes_per_s", "denials_per_s"}
    kernel |= {"connects_per_s", "reclaims_per_s", "oom_kills_per_s", "peers"}
    assert {found[name] for name in kernel} == {Source.KERNEL}


def test_the_doctor_sees_what_is_there_and_names_the_cure_of_what_is_not(fedge_bpf, cgroup, pin_dir):
    before = {check.name: check for check in run_checks(pin_dir)}
    assert before["BPF programs"].grade is before["network admission"].grade is Grade.FAIL
    assert all(check.cure for check in before.values() if check.grade is not Grade.OK)
    fedge_bpf("attach", "--cgroup", str(cgroup))
    after = {check.name: check for check in run_checks(pin_dir)}
    assert after["BPF programs"].grade is after["bpffs"].grade is after["libbpf"].grade is Grade.OK
    assert after["network admission"].grade is Grade.FAIL  # pytest is not inside the guarded cgroup
