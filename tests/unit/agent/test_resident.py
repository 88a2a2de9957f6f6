import subprocess
import sys
from pathlib import Path

from fedge_agent import resident

MAPS = """\
55d0c0000000-55d0c0010000 r--p 00000000 fe:00 1234                       /usr/bin/python3.11
55d0c0010000-55d0c0030000 r-xp 00010000 fe:00 1234                       /usr/bin/python3.11
55d0c0030000-55d0c0031000 rw-p 00030000 fe:00 1234                       /usr/bin/python3.11
7f0000000000-7f0000001000 rwxp 00000000 fe:00 99                         /usr/lib/a b.so
7f0000001000-7f0000003000 r-xp 00001000 fe:00 99                         /usr/lib/a b.so (deleted)
7f0000004000-7f0000005000 r-xp 00000000 00:00 0
7f0000005000-7f0000006000 r-xs 00000000 fe:00 98                         /usr/lib/shared.so
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
"""


def test_only_private_code_of_files_that_nobody_can_have_written_to_is_given_back():
    assert resident.code_mappings(MAPS) == [(0x55D0C0010000, 0x20000), (0x7F0000001000, 0x2000)]


def test_memory_is_given_back_after_the_start_and_when_more_is_resident_than_idling_needs():
    sizes = iter([48, 35, 35, 36, 36.9, 39, 35, 36, 37.5])
    given = []
    looked = []

    def size() -> int:
        looked.append(next(sizes))
        return int(looked[-1] * 1024 * 1024)

    memory = resident.IdleMemory(size, lambda: given.append(looked[-1]))
    for _ in range(9):
        memory.look()
    assert given == [48, 39, 37.5]


def test_a_large_process_that_needs_what_it_has_is_left_alone():
    given = []
    memory = resident.IdleMemory(lambda: 500 * 1024 * 1024, lambda: given.append(1))
    for _ in range(20):
        memory.look()
    assert given == [1]


def test_the_resident_set_is_that_of_smaps():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    assert abs(resident.resident_bytes() - kib * 1024) < 2 * 1024 * 1024


def test_a_process_that_gave_memory_back_has_less_and_goes_on():
    program = """
import json, ssl, sqlite3
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fedge_agent import resident

def resident_kib():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

key = ec.generate_private_key(ec.SECP256R1())
before = resident_kib()
resident.give_back()
after = resident_kib()
key.public_key().verify(key.sign(b"body", ec.ECDSA(SHA256())), b"body", ec.ECDSA(SHA256()))
sqlite3.connect(":memory:").execute("SELECT 1").fetchone()
ssl.create_default_context()
print(json.dumps([before, after]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, after = (int(part) for part in done.stdout.strip("[]\n").split(","))
    assert after < before
