import ipaddress
import math
import random
import struct
import subprocess
import sys

import pytest

from fedge_agent.kernel import peers, substitutes
from fedge_agent.kernel.features import FEATURES, Source
from fedge_agent.kernel.pressure import parse_pressure
from fedge_agent.kernel.telemetry import Telemetry

SNMP = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm RetransSegs AttemptFails\nTcp: 1 {} 3\n"
DISKS = (
    "   8       0 sda {reads} 0 0 {read_ms} {writes} 0 0 {write_ms} 0 0 0\n   7       0 loop0 9 0 0 9 9 0 0 9 0 0 0\n"
)


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/pressure").mkdir()
    (tmp_path / "sys/block/sda").mkdir(parents=True)
    (tmp_path / "sys/block/loop0").mkdir()
    return tmp_path


def task(machine, pid, *, waited_ns, slices, priority=20, start=100):
    place = machine / "proc" / str(pid)
    place.mkdir(exist_ok=True)
    fields = ["S", *["0"] * 14, str(priority), "0", "1", "0", str(start)]
    (place / "stat").write_text(f"{pid} (odd) name) {' '.join(fields)}\n")
    (place / "schedstat").write_text(f"5 {waited_ns} {slices}\n")


def test_waits_are_averaged_over_the_tasks_that_live_whatever_ended(machine):
    task(machine, 1, waited_ns=1_000_000, slices=10)
    task(machine, 7, waited_ns=900_000_000, slices=5)
    before = substitutes.run_queue(machine)
    task(machine, 1, waited_ns=3_000_000, slices=20)
    task(machine, 7, waited_ns=8_000, slices=2, start=555)  # another process with the same id
    after = substitutes.run_queue(machine)
    assert before is not None
    assert after is not None
    assert substitutes.mean_wait_us(before, after) == pytest.approx((2_000_000 + 8_000) / 1000 / 12)


def test_nice_19_tasks_are_left_out_of_the_waits(machine):
    task(machine, 1, waited_ns=0, slices=0)
    task(machine, 2, waited_ns=10**12, slices=1, priority=39)
    assert substitutes.run_queue(machine) == {(1, 100): (0, 0)}


def test_waits_are_missing_where_other_users_processes_are_hidden(machine):
    task(machine, 4242, waited_ns=1, slices=1)
    assert substitutes.run_queue(machine) is None


def test_disks_count_once_and_loops_not_at_all(machine):
    (machine / "proc/diskstats").write_text(DISKS.format(reads=10, read_ms=20, writes=5, write_ms=40))
    assert substitutes.block_io(machine) == substitutes.Mean(60_000.0, 15)


def test_a_machine_that_tells_nothing_gives_missing_features_and_never_zeros(tmp_path):
    telemetry = Telemetry(tmp_path / "no-pins", root=tmp_path, own_srtt_us=lambda: None)
    vector = telemetry.window()
    assert set(vector.sources) == {Source.MISSING}
    assert all(math.isnan(value) for value in vector.values)
    assert vector.present_mask == vector.kernel_mask == 0


def test_substitutes_fill_the_vector_and_the_masks_tell_them_apart(machine):
    now_ns = [0]

    def write(forks, retransmits, reads, stalled_us):
        (machine / "proc/stat").write_text(f"cpu 1 2\nprocesses {forks}\n")
        (machine / "proc/net/snmp").write_text(SNMP.format(retransmits))
        (machine / "proc/diskstats").write_text(DISKS.format(reads=reads, read_ms=reads * 3, writes=0, write_ms=0))
        text = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_us}\nfull avg10=0.00 total=0\n"
        for name in ("cpu", "memory", "io"):
            (machine / "proc/pressure" / name).write_text(text)

    write(100, 7, 50, 0)
    task(machine, 1, waited_ns=0, slices=0)
    telemetry = Telemetry(machine / "no-pins", root=machine, monotonic_ns=lambda: now_ns[0], own_srtt_us=lambda: 1500.0)
    write(120, 9, 60, 5_000_000)
    task(machine, 1, waited_ns=4_000, slices=2)
    now_ns[0] = 10_000_000_000
    vector = telemetry.window()
    found = dict(zip(FEATURES, vector.values, strict=True))
    assert (found["execs_per_s"], found["retransmits_per_s"]) == (2.0, 0.2)
    assert (found["run_queue_us"], found["block_us"]) == (2.0, 3000.0)
    assert (found["cpu_some"], found["memory_full"]) == (0.5, 0.0)
    kernel = {name for i, name in enumerate(FEATURES) if vector.kernel_mask >> i & 1}
    assert kernel == {"cpu_some", "memory_some", "memory_full", "io_some", "io_full"}
    assert (found["denials_per_s"], found["srtt_us"]) == (0.0, 1500.0)
    assert vector.present_mask.bit_count() == 11


@pytest.mark.parametrize("text", ["", "some avg10=0.00", "total=5", "some total=x"])
def test_a_pressure_file_without_totals_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_pressure(text)


def test_memory_events_are_summed_over_the_zones(machine):
    assert substitutes.memory_events(machine) == (None, None)
    (machine / "proc/vmstat").write_text("pgfault 9\nallocstall_dma 1\nallocstall_normal 2\noom_kill 4\n")
    assert substitutes.memory_events(machine) == (3, 4)


def test_traffic_is_that_of_all_interfaces_but_lo(machine):
    row = "{}: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n"
    text = "Inter-| Receive\n face |bytes\n" + row.format("    lo") + row.format("  eth0") + row.format(" wlan0")
    (machine / "proc/net/dev").write_text(text)
    assert substitutes.traffic(machine) == (6, 8, 2, 4)


def test_the_machines_queue_is_summed_over_its_cpus(machine):
    assert substitutes.machine_queue(machine) is None
    (machine / "proc/schedstat").write_text(
        "version 15\ncpu0 0 0 0 0 0 0 7 3000 2\ndomain0 1\ncpu1 0 0 0 0 0 0 7 1000 2\n"
    )
    assert substitutes.machine_queue(machine) == substitutes.Mean(4.0, 4)


TCP_ROW = (
    "   {n}: 0100007F:1F90 {address}:01BB {state} 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0\n"
)


def tcp_table(*rows):
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    return head + "".join(TCP_ROW.format(n=n, address=a, state=s) for n, (a, s) in enumerate(rows))


def words(packed):
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def test_connected_peers_are_counted_once_each_without_loopback_and_listeners(machine):
    assert substitutes.peers(machine) is None
    far, near = words(bytes((192, 0, 2, 1))), words(bytes((127, 9, 9, 9)))
    (machine / "proc/net/tcp").write_text(
        tcp_table((far, "01"), (far, "02"), (near, "01"), (words(bytes(4)), "0A"), (words(bytes((192, 0, 2, 2))), "06"))
    )
    assert substitutes.peers(machine) == 1
    six = ipaddress.ip_address("2001:db8::1").packed
    mapped = ipaddress.ip_address("::ffff:127.0.0.1").packed
    (machine / "proc/net/tcp6").write_text(
        tcp_table((words(six), "01"), (words(mapped), "01"), (words(bytes(15) + b"\x01"), "01"))
    )
    assert substitutes.peers(machine) == 2
    (machine / "proc/net/tcp6").write_text(tcp_table(("zz", "01")))
    assert substitutes.peers(machine) is None


OWN_SRTT = """
import os, socket
from fedge_agent.kernel import substitutes
assert substitutes.own_srtt_us() is None
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
    other, _ = server.accept()
    with other:
        for _ in range(20):
            one.sendall(b"a")
            other.sendall(other.recv(10))
            one.recv(10)
        before = sorted(os.listdir("/proc/self/fd"))
        found = substitutes.own_srtt_us()
        assert found is not None and 1 <= found < 1e6, found
        assert sorted(os.listdir("/proc/self/fd")) == before
"""


def test_the_round_trip_time_of_an_own_connection_is_read_and_no_descriptor_is_left():
    """In a process of its own, which has no other connections."""
    done = subprocess.run([sys.executable, "-c", OWN_SRTT], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("wanted", [0, 1, 10, 100, 400])
def test_the_number_of_peers_is_told_from_a_sketch(wanted):
    stamps = [0] * 256
    rng = random.Random(wanted)  # noqa: S311 - no secret
    for _ in range(wanted):
        stamps[rng.randrange(256)] = 2_000
    stamps[7] = stamps[7] or 900  # of the window before
    assert peers.count(stamps, 1_000) == pytest.approx(wanted, rel=0.2, abs=0.6)
    assert peers.count([2_000] * 256, 1_000) == pytest.approx(1419.6, abs=0.1)
