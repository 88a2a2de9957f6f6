"""Samples from files: what a training job may learn from, read within bounds and checked against the model.

A source of kind `directory` is one file or a directory whose `*.npz` and `*.csv` files are read in order of name:

* `.npz`: `x` (n, d) of floats or integers and, unless the target is the input itself, `y`: class numbers (n,), or
  targets (n, c);
* `.csv`: one header row; the column `y` holds class numbers, all other columns, in their order, are the features.

Everything in these files is hostile: pickles are refused, sizes are taken from headers and checked before reading.
"""

import csv
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.pipe import Source

MAX_BYTES = 256 << 20
MAX_FILES = 1000
MAX_COLUMNS = 65_536

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Inputs `x` (n, d) and targets `y` (n, c), float32, finite, n >= 1."""

    x: Float32
    y: Float32


def load_samples(source: Source, *, input_dim: int, output_dim: int, max_bytes: int = MAX_BYTES) -> Samples:
    """Read a source for a model with these dimensions.

    Raises:
        TrainingError: `unknown-source`, `unreadable`, `no-data`, or `bad-data` with the file and its fault.
    """
    reader = READERS.get(source.kind)
    if reader is None:
        raise TrainingError(Reason.UNKNOWN_SOURCE, f"source kind {source.kind!r}; known: {', '.join(sorted(READERS))}")
    try:
        parts = reader(Path(source.path), max_bytes)
    except OSError as error:
        raise TrainingError(Reason.UNREADABLE, f"{error.filename or source.path}: {error.strerror or error}") from error
    checked = [_check(part, input_dim, output_dim) for part in parts]
    samples = Samples(np.concatenate([part.x for part in checked]), np.concatenate([part.y for part in checked]))
    if not len(samples.x):
        raise TrainingError(Reason.NO_DATA, f"{source.path} holds no rows")
    return samples


@dataclass(frozen=True)
class _Part:
    """Content of one file, unchecked; `y` is None when the target is the input."""

    path: Path
    x: Array
    y: Array | None


def _read_directory(path: Path, max_bytes: int) -> list[_Part]:
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.suffix in {".npz", ".csv"} and entry.is_file())
    else:
        files = [path]
    if not files:
        raise TrainingError(Reason.NO_DATA, f"{path} holds no .npz or .csv file")
    if len(files) > MAX_FILES:
        raise TrainingError(Reason.BAD_DATA, f"{path}: {len(files)} files, at most {MAX_FILES} are read")
    parts, left = [], max_bytes
    for file in files:
        part = _read_csv(file, left) if file.suffix == ".csv" else _read_npz(file, left)
        left -= part.x.nbytes + (part.y.nbytes if part.y is not None else 0)
        parts.append(part)
    return parts


_HEADER_READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
READERS: dict[str, Callable[[Path, int], list[_Part]]] = {"directory": _read_directory}


def _read_npz(path: Path, max_bytes: int) -> _Part:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "x.npy" not in names:
                raise _bad(path, f"no array x; found {', '.join(names[:10]) or 'nothing'}")
            x = _read_array(path, archive, "x.npy", max_bytes)
            y = _read_array(path, archive, "y.npy", max_bytes - x.nbytes) if "y.npy" in names else None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, SyntaxError) as error:
        raise _bad(path, f"not an .npz file of plain arrays: {error}") from error
    return _Part(path, x, y)


def _read_array(path: Path, archive: zipfile.ZipFile, name: str, max_bytes: int) -> Array:
    with archive.open(name) as stream:
        shape, fortran, dtype = _array_header(stream)
        if dtype.kind not in "fiub":
            raise _bad(path, f"{name} has type {dtype}, expected floats or integers")
        size = math.prod(shape) * dtype.itemsize
        if size > max_bytes:
            raise _bad(path, f"{name} takes {size} bytes, {max_bytes} are left of the bound")
        content = stream.read(size)
    if len(content) != size:
        raise _bad(path, f"{name} ends after {len(content)} of {size} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)  # type: ignore[no-untyped-call]
    read_header = _HEADER_READERS.get(version)
    if read_header is None:
        raise ValueError(f"array format version {version}")
    return read_header(stream)


def _read_csv(path: Path, max_bytes: int) -> _Part:
    with path.open(newline="", encoding="utf-8") as stream:
        try:
            rows = csv.reader(stream, strict=True)
            header = [column.strip() for column in next(rows, [])]
            features = [index for index, column in enumerate(header) if column != "y"]
            if not features or len(header) > MAX_COLUMNS or len(header) - len(features) > 1:
                raise _bad(path, f"header of {len(header)} columns; expected features and at most one column y")
            most = max_bytes // (8 * len(header))
            values: list[list[float]] = []
            for row in rows:
                if len(row) != len(header) or len(values) >= most:
                    raise _bad(path, f"line {rows.line_num}: {len(row)} values for {len(header)} columns, or too long")
                values.append([float(cell) for cell in row])
        except (csv.Error, ValueError) as error:
            raise _bad(path, f"line {rows.line_num}: {error}") from error
    table = np.array(values, np.float64).reshape(len(values), len(header))
    if "y" not in header:
        return _Part(path, table, None)
    y = table[:, header.index("y")]
    if not np.array_equal(y, np.round(y)):
        raise _bad(path, "column y holds a number that is not whole")
    return _Part(path, table[:, features], y.astype(np.int64))


def _check(part: _Part, input_dim: int, output_dim: int) -> Samples:
    if part.x.shape[1:] != (input_dim,):
        raise _bad(part.path, f"x has shape {part.x.shape}, the model takes (n, {input_dim})")
    x = np.ascontiguousarray(part.x, np.float32)
    y = _targets(part, x, output_dim)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise _bad(part.path, "a value is not finite")
    return Samples(x, y)


def _targets(part: _Part, x: Float32, output_dim: int) -> Float32:
    if part.y is None:
        if x.shape[1] != output_dim:
            raise _bad(part.path, f"no targets y, and the model's {output_dim} outputs are not its inputs")
        return x
    y = part.y
    if y.ndim == 1 and y.dtype.kind in "iu" and len(y) == len(x):
        if len(y) and (y.min() < 0 or y.max() >= output_dim):
            raise _bad(part.path, f"class numbers from {y.min()} to {y.max()}, the model knows 0 to {output_dim - 1}")
        one_hot = np.zeros((len(y), output_dim), np.float32)
        one_hot[np.arange(len(y)), y] = 1.0
        return one_hot
    if y.shape != (len(x), output_dim):
        raise _bad(part.path, f"y has shape {y.shape}, expected ({len(x)},) class numbers or ({len(x)}, {output_dim})")
    return np.ascontiguousarray(y, np.float32)


def _bad(path: Path, what: str) -> TrainingError:
    return TrainingError(Reason.BAD_DATA, f"{path}: {what}")
