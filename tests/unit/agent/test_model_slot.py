import hashlib
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedge_agent.model_slot import MAX_JOBS, ModelSlots, Slot, read_slot, slots


def a_model(folder: Path, *, job: str = "demo", round_: int = 1, graph: bytes = b"graph", weights: bytes = b"w") -> Any:
    """An offer and its files, as the daemon fetched them."""
    files = {}
    folder.mkdir(exist_ok=True)
    for content in (graph, weights):
        digest = hashlib.sha256(content).digest()
        path = folder / digest.hex()
        path.write_bytes(content)
        path.chmod(0o600)
        files[digest] = path
    refs = [SimpleNamespace(sha256=digest) for digest in files]
    return cast("Any", SimpleNamespace(job=job, round=round_, graph=refs[0], weights=refs[-1], dim=4)), files


@pytest.fixture
def place(tmp_path):
    tick = iter(range(1_700_000_000, 1_800_000_000))
    return ModelSlots(tmp_path / "model", lambda: next(tick)), tmp_path / "model", tmp_path / "blobs"


def test_a_model_that_landed_is_the_current_one_readable_by_all_and_not_written_twice(place):
    slot, folder, blobs = place
    previous = os.umask(0o077)
    try:
        offer, files = a_model(blobs)
        slot.landed(offer, files)
    finally:
        os.umask(previous)
    (found,) = slots(folder)
    assert (found.job, found.round, found.dim) == ("demo", 1, 4)
    assert (folder / found.weights).read_bytes() == b"w"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert (folder / found.graph).stat().st_nlink == 2  # the blob itself
    before = (folder / "demo.json").stat().st_mtime_ns
    slot.landed(offer, files)
    assert (folder / "demo.json").stat().st_mtime_ns == before


def test_the_next_model_keeps_the_one_before_and_nothing_older(place):
    slot, folder, blobs = place
    for number in (1, 2, 3):
        offer, files = a_model(blobs, round_=number, weights=b"w%d" % number)
        slot.landed(offer, files)
        for path in files.values():
            path.unlink()  # as the daemon does when the next round comes
    current, before = read_slot(folder / "demo.json"), read_slot(folder / "demo.previous.json")
    assert current is not None
    assert before is not None
    assert (current.round, before.round) == (3, 2)
    assert (folder / current.weights).read_bytes() == b"w3"
    assert (folder / before.weights).read_bytes() == b"w2"
    names = {path.name for path in folder.iterdir()}
    assert names == {"demo.json", "demo.previous.json", current.graph, current.weights, before.weights}


def test_jobs_stand_beside_each_other_the_newest_first_and_only_so_many(place):
    slot, folder, blobs = place
    for number in range(MAX_JOBS + 3):
        slot.landed(*a_model(blobs, job=f"job-{number}", weights=b"w%d" % number))
    found = slots(folder)
    assert [s.job for s in found] == [f"job-{n}" for n in range(MAX_JOBS + 2, 2, -1)]
    assert len(list(folder.iterdir())) == 2 * MAX_JOBS + 1


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b"\xff" * 10, b'{"job":"../x"}',
        b'{"job":"demo","round":1,"graph":"../../etc/passwd","weights":"x","dim":4,"landed_at":1}',
        b'{"job":"demo","round":1,"graph":"' + b"a" * 64 + b'","weights":"' + b"a" * 64 + b'","dim":0,"landed_at":1}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_no_model(tmp_path, content):
    (tmp_path / "demo.json").write_bytes(content)
    assert read_slot(tmp_path / "demo.json") is None
    assert slots(tmp_path) == []


def test_where_there_is_no_folder_there_is_no_model(tmp_path):
    assert slots(tmp_path / "nowhere") == []


class PowerLossError(Exception):
    """The machine went off."""


def test_after_a_power_loss_at_any_step_the_old_or_the_new_model_is_whole(place, monkeypatch, tmp_path):
    real = {name: getattr(os, name) for name in ("fsync", "rename", "link", "unlink", "chmod")}
    survived = 0
    for allowed in range(60):
        folder = tmp_path / str(allowed)
        slot = ModelSlots(folder)
        slot.landed(*a_model(tmp_path / "blobs", weights=b"old"))
        left = [allowed]

        def dying(name, left=left):
            def call(*arguments, **options):
                if left[0] == 0:
                    raise PowerLossError
                left[0] -= 1
                return real[name](*arguments, **options)

            return call

        for name in real:
            monkeypatch.setattr(os, name, dying(name))
        died = False
        try:
            slot.landed(*a_model(tmp_path / "blobs", round_=2, weights=b"new"))
        except PowerLossError:
            died = True
        finally:
            for name, function in real.items():
                monkeypatch.setattr(os, name, function)
        (found,) = slots(folder)
        assert (found.round, (folder / found.weights).read_bytes()) in [(1, b"old"), (2, b"new")]
        assert (folder / found.graph).read_bytes() == b"graph"
        if not died:
            break
        survived += 1
        slot.landed(*a_model(tmp_path / "blobs", round_=3, weights=b"newest"))
        assert slots(folder)[0] == Slot("demo", 3, found.graph, slots(folder)[0].weights, 4, slots(folder)[0].landed_at)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert survived > 8
