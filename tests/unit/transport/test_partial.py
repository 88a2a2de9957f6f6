"""The unfinished blob on disk: killed, torn, falsified."""

import random
import stat

import pytest

from fedge_protocol.chunks import CHUNK_BYTES, split
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef
from fedge_transport.partial import PartialBlob

BLOB = random.Random(5).randbytes(3 * CHUNK_BYTES + 77)  # noqa: S311  test data
REF, SLICES = split(BLOB)


def test_a_blob_goes_on_after_every_kill(tmp_path):
    for index in (2, 0, 3, 1):
        partial = PartialBlob(tmp_path, REF, "broker")
        assert index in partial.missing()
        assert partial.accept(index, bytes(SLICES[index]))
        assert not partial.accept(index, bytes(len(SLICES[index])))
        partial.close()  # a kill leaves the same file: nothing is written on closing
    partial = PartialBlob(tmp_path, REF, "broker")
    assert partial.complete
    path = partial.finish()
    assert path.read_bytes() == BLOB
    assert path.name == REF.sha256.hex()
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_chunk_that_a_power_cut_tore_is_asked_for_anew(tmp_path):
    partial = PartialBlob(tmp_path, REF, "broker")
    for index, part in enumerate(SLICES):
        partial.accept(index, bytes(part))
    partial.close()
    with (tmp_path / f"{REF.sha256.hex()}.part").open("r+b") as file:
        file.seek(CHUNK_BYTES + 4096)
        file.write(bytes(4096))
    partial = PartialBlob(tmp_path, REF, "broker")
    assert partial.missing() == (1,)
    partial.accept(1, bytes(SLICES[1]))
    assert partial.finish().read_bytes() == BLOB


def test_a_file_of_another_length_is_begun_anew(tmp_path):
    (tmp_path / f"{REF.sha256.hex()}.part").write_bytes(b"\x01" * 1000)
    partial = PartialBlob(tmp_path, REF, "broker")
    assert partial.missing() == (0, 1, 2, 3)
    partial.close()


def test_a_falsified_blob_is_thrown_away_and_its_source_named(tmp_path):
    partial = PartialBlob(tmp_path, REF, "broker")
    partial.accept(0, bytes(CHUNK_BYTES))
    for index in (1, 2, 3):
        partial.accept(index, bytes(SLICES[index]))
    with pytest.raises(RefusedError, match="broker sent") as refused:
        partial.finish()
    assert refused.value.reason is Reason.MALFORMED
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_blob_is_not_given_out(tmp_path):
    partial = PartialBlob(tmp_path, REF, "broker")
    with pytest.raises(RefusedError) as refused:
        partial.finish()
    assert refused.value.reason is Reason.MISSING_BLOB
    assert partial.missing_bitmap() == b"\x0f"
    partial.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("index", "length"), [(-1, CHUNK_BYTES), (4, 77), (3, 78), (0, 77)])
def test_a_chunk_that_does_not_belong_is_refused(tmp_path, index, length):
    partial = PartialBlob(tmp_path, REF, "broker")
    with pytest.raises(RefusedError):
        partial.accept(index, bytes(length))
    partial.close()


def test_the_unfinished_file_takes_only_the_room_of_what_came(tmp_path):
    ref = BlobRef(sha256=bytes(32), size=16 * 1024 * 1024)
    partial = PartialBlob(tmp_path, ref, "broker")
    partial.accept(100, bytes(range(256)) * 512)
    partial.close()
    assert (tmp_path / f"{ref.sha256.hex()}.part").stat().st_blocks * 512 < 1024 * 1024


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f"{REF.sha256.hex()}.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        PartialBlob(tmp_path, REF, "broker")
    assert victim.read_bytes() == b"precious"
