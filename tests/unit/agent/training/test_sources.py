import io
import zipfile

import numpy as np
import pytest

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.pipe import Source
from fedge_agent.training.sources import load_samples


def load(path, *, input_dim=2, output_dim=3, **bounds):
    source = Source(kind="directory", name="test", path=str(path))
    return load_samples(source, input_dim=input_dim, output_dim=output_dim, **bounds)


def refused(path, **arguments):
    with pytest.raises(TrainingError) as refusal:
        load(path, **arguments)
    return refusal.value


def test_files_of_a_directory_are_joined_in_order_of_name(tmp_path):
    np.savez(tmp_path / "b.npz", x=np.array([[5, 6]]), y=np.array([2]))
    (tmp_path / "a.csv").write_text("left,y,right\n1,0,2\n3,1,4\n")
    (tmp_path / "ignored.txt").write_text("no samples")
    samples = load(tmp_path)
    np.testing.assert_array_equal(samples.x, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(samples.y, np.eye(3))
    assert samples.x.dtype == samples.y.dtype == np.float32
    assert samples.x.flags.c_contiguous


def test_a_single_file_is_a_source_too(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((4, 2), np.float64, order="F"), y=np.eye(4, 3))
    assert load(tmp_path / "a.npz").y.shape == (4, 3)


def test_without_targets_the_input_is_its_own_target(tmp_path):
    (tmp_path / "a.csv").write_text("left,right\n1,2\n")
    samples = load(tmp_path, output_dim=2)
    np.testing.assert_array_equal(samples.x, samples.y)
    assert refused(tmp_path).reason is Reason.BAD_DATA


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": np.zeros(3, int)}, "no array x"),
        ({"x": np.zeros((3, 4)), "y": np.zeros(3, int)}, "x has shape (3, 4), the model takes (n, 2)"),
        ({"x": np.float64(3), "y": np.zeros(3, int)}, "x has shape ()"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 3])}, "class numbers from 0 to 3, the model knows 0 to 2"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 1])}, "class numbers from -1 to 1"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, "y has shape (4,)"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "y has shape (3,)"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3, int)}, "not finite"),
        ({"x": np.full((3, 2), 1e300), "y": np.zeros(3, int)}, "not finite"),
        ({"x": np.array([["a", "b"]]), "y": np.zeros(1, int)}, "has type <U1"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_wrong_arrays_are_refused_by_what_is_wrong(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    error = refused(tmp_path)
    assert error.reason is Reason.BAD_DATA
    assert error.detail.startswith(str(tmp_path / "a.npz"))
    assert words in error.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "header of 0 columns"),
        ("y\n1\n", "header of 1 columns"),
        ("y,y,x\n1,1,1\n", "header of 3 columns"),
        ("a,b,y\n1,2\n", "line 2: 2 values for 3 columns"),
        ("a,b,y\n1,2,0\n1,two,0\n", "line 3: could not convert string to float: 'two'"),
        ("a,b,y\n1,2,0.5\n", "column y holds a number that is not whole"),
        ("a,b,y\n1,2,nan\n", "column y holds a number that is not whole"),
        ("a,b,y\n1,inf,0\n", "not finite"),
        ('a,b,y\n"1"x,2,0\n', "line 2"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    error = refused(tmp_path)
    assert error.reason is Reason.BAD_DATA
    assert words in error.detail


def test_an_array_beyond_the_bound_is_refused_before_it_is_read(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 2)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    assert "takes 8796093022208 bytes" in refused(tmp_path).detail


def test_the_bound_holds_for_all_files_together(tmp_path):
    for name in ("a", "b", "c"):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((100, 2), np.float32), y=np.zeros(100, np.int8))
    assert len(load(tmp_path, max_bytes=2700).x) == 300
    assert "c.npz: y.npy takes 100 bytes, 99 are left" in refused(tmp_path, max_bytes=2699).detail


def test_a_long_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,y\n" + "1,2,0\n" * 100)
    assert len(load(tmp_path, max_bytes=2400).x) == 100
    assert "line 101" in refused(tmp_path, max_bytes=2399).detail


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert refused(tmp_path).reason is Reason.BAD_DATA


def test_an_array_that_ends_early_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.zeros((10, 2), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:-1])
    assert "ends after 79 of 80 bytes" in refused(tmp_path).detail


def test_no_rows_no_files_and_unknown_kinds_have_reasons_of_their_own(tmp_path):
    assert refused(tmp_path).reason is Reason.NO_DATA
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 2)), y=np.zeros(0, int))
    assert refused(tmp_path).reason is Reason.NO_DATA
    assert refused(tmp_path / "missing").reason is Reason.UNREADABLE
    with pytest.raises(TrainingError, match="unknown-source: source kind 'camera'; known: directory"):
        load_samples(Source(kind="camera", name="c", path="/dev/null"), input_dim=2, output_dim=3)
