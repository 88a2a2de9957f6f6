import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_coordinator.store.blobs import Blobs
from fedge_coordinator.store.errors import BlobCorruptError, BlobTooLargeError, NotFoundError, StoreUnavailableError


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", max_bytes=1000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.binary(max_size=1000))
def test_what_was_put_comes_back_under_its_hash(blobs: Blobs, content: bytes):
    digest = blobs.put(content)
    assert digest == hashlib.sha256(content).digest()
    assert blobs.put(content) == digest
    assert blobs.has(digest)
    assert blobs.get(digest) == content


def test_altered_bytes_are_never_returned(blobs: Blobs):
    digest = blobs.put(b"weights")
    blobs.path(digest).write_bytes(b"weightz")
    with pytest.raises(BlobCorruptError):
        blobs.get(digest)
    assert blobs.put(b"weights") == digest
    assert blobs.get(digest) == b"weights"


def test_an_unknown_blob_is_named(blobs: Blobs):
    with pytest.raises(NotFoundError, match="ab" * 32):
        blobs.get(b"\xab" * 32)


def test_too_many_bytes_are_refused_before_they_are_written(blobs: Blobs, tmp_path: Path):
    with pytest.raises(BlobTooLargeError, match="1001 bytes"):
        blobs.put(bytes(1001))
    assert not (tmp_path / "blobs").exists()


def test_a_name_that_is_no_hash_is_refused(blobs: Blobs):
    with pytest.raises(ValueError, match="32 bytes"):
        blobs.path(b"../../etc")


def test_blobs_are_readable_by_their_owner_only(blobs: Blobs):
    path = blobs.path(blobs.put(b"x"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="cannot write blob"):
        Blobs(tmp_path / "file" / "blobs").put(b"x")


WRITER = """
import sys
from pathlib import Path
from fedge_coordinator.store.blobs import Blobs
blobs = Blobs(Path(sys.argv[1]))
for number in range(1_000_000):
    print(blobs.put(number.to_bytes(8) * 5000).hex(), flush=True)
"""


def test_a_killed_process_leaves_whole_blobs_only(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        names = [child.stdout.readline().strip() for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        names += child.stdout.read().split()
    blobs = Blobs(tmp_path)
    assert len(names) >= 20
    for name in names:
        assert len(blobs.get(bytes.fromhex(name))) == 40_000
    for found in (each for each in tmp_path.glob("*/*") if not each.name.startswith(".")):
        assert hashlib.sha256(found.read_bytes()).hexdigest() == found.parent.name + found.name
