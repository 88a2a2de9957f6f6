import hashlib
import os
from pathlib import Path

import pytest

from fedge_agent.federation.handover import empty, take_over
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef

CONTENT = os.urandom(300_000)
REF = BlobRef(hashlib.sha256(CONTENT).digest(), len(CONTENT))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def outgoing(tmp_path: Path) -> Path:
    folder = tmp_path / "outgoing"
    folder.mkdir()
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """What a worker that was taken over would like to see uploaded, of the very size of a vector."""
    path = tmp_path / "identity.key"
    path.write_bytes(CONTENT)
    return path


def refused(written: Path, outgoing: Path, ref: BlobRef = REF) -> None:
    with pytest.raises(RefusedError) as caught:
        take_over(written, ref, outgoing)
    assert caught.value.reason is Reason.BAD_UPDATE
    assert list(outgoing.iterdir()) == []


def test_a_vector_is_copied_under_its_hash_and_the_workers_file_is_gone(work, outgoing):
    written = work / "masked"
    written.write_bytes(CONTENT)
    before = written.stat().st_ino
    final = take_over(written, REF, outgoing)
    assert final == outgoing / REF.sha256.hex()
    assert final.read_bytes() == CONTENT
    assert final.stat().st_ino != before  # whoever holds the old file open cannot change what is sent
    assert final.stat().st_mode & 0o777 == 0o600
    assert list(work.iterdir()) == []


def test_a_link_to_a_file_of_the_daemon_is_not_followed(work, outgoing, secret):
    (work / "masked").symlink_to(secret)
    refused(work / "masked", outgoing)
    assert secret.exists()


def test_a_second_name_for_a_file_of_the_daemon_is_refused(work, outgoing, secret):
    os.link(secret, work / "masked")
    refused(work / "masked", outgoing)


def test_a_pipe_is_refused_without_waiting_for_its_writer(work, outgoing):
    os.mkfifo(work / "masked")
    refused(work / "masked", outgoing)


def test_a_folder_a_device_or_nothing_is_refused(work, outgoing):
    (work / "masked").mkdir()
    refused(work / "masked", outgoing)
    refused(work / "missing", outgoing)
    refused(Path("/dev/zero"), outgoing)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_other_bytes_than_the_worker_named_are_refused(work, outgoing, content):
    (work / "masked").write_bytes(content)
    refused(work / "masked", outgoing)


def test_a_hash_that_is_not_that_of_the_bytes_is_refused(work, outgoing):
    (work / "masked").write_bytes(CONTENT)
    refused(work / "masked", outgoing, BlobRef(bytes(32), len(CONTENT)))


def test_the_same_vector_may_be_taken_over_twice(work, outgoing):
    for _ in range(2):
        (work / "masked").write_bytes(CONTENT)
        take_over(work / "masked", REF, outgoing)
    assert [path.name for path in outgoing.iterdir()] == [REF.sha256.hex()]


def test_a_link_in_the_place_of_the_copy_is_not_written_through(work, outgoing, secret, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (outgoing / f".{REF.sha256.hex()}").symlink_to(target)
    (work / "masked").write_bytes(CONTENT)
    with pytest.raises(OSError, match="symbolic links"):
        take_over(work / "masked", REF, outgoing)
    assert target.read_bytes() == b"untouched"


def test_emptying_follows_no_link(work, secret, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (work / "file").touch()
    (work / "folder" / "deep").mkdir(parents=True)
    (work / "link").symlink_to(outside)
    (work / "file link").symlink_to(secret)
    empty(work)
    assert list(work.iterdir()) == []
    assert (outside / "kept").exists()
    assert secret.exists()
