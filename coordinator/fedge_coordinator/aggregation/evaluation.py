"""Scores a checkpoint on held-out data that the operator has, with the very graph that the devices run."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class HeldOut:
    """One held-out set: `x` (n, features) float32, `y` (n, outputs) float32, one-hot for classes."""

    name: str
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]


def load_held_out(paths: Sequence[Path], outputs: int) -> tuple[HeldOut, ...]:
    """Read npz files with `x` and `y` (labels or one-hot). No pickles.

    Raises:
        ValueError: a file has other arrays or shapes.
        OSError: a file cannot be read.
    """
    sets = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            if not {"x", "y"} <= set(arrays.files):
                raise ValueError(f"{path}: wants arrays x and y, has {', '.join(arrays.files)}")
            x = np.ascontiguousarray(arrays["x"], np.float32)
            y = arrays["y"]
        if y.ndim == 1:
            labels = y.astype(np.int64)
            if not np.array_equal(labels, y) or labels.min(initial=0) < 0 or labels.max(initial=0) >= outputs:
                raise ValueError(f"{path}: labels are not whole numbers of 0..{outputs - 1}")
            y = np.eye(outputs, dtype=np.float32)[labels]
        if x.ndim != 2 or y.shape != (len(x), outputs) or not len(x):  # noqa: PLR2004 - a matrix has two axes
            raise ValueError(f"{path}: x {x.shape} and y {y.shape} do not fit {outputs} outputs")
        sets.append(HeldOut(path.stem, x, np.ascontiguousarray(y, np.float32)))
    return tuple(sets)


class Evaluator:
    """One interpreter over one graph. Runs in a thread: the interpreter releases the GIL."""

    def __init__(self, graph: bytes, sets: Sequence[HeldOut]) -> None:
        interpreter = _interpreter(graph)
        self._set_flat = interpreter.get_signature_runner("set_flat")
        self._evaluate = interpreter.get_signature_runner("evaluate")
        self._sets = tuple(sets)

    def score(self, weights: bytes) -> dict[str, float]:
        """`accuracy` and `loss` over all sets, and `accuracy/<set>` of each. Little-endian float32 weights.

        A number that is not finite (the loss of a model that diverged) is left out: no record can hold it.
        """
        self._set_flat(flat=np.frombuffer(weights, "<f4").astype(np.float32))
        correct, loss, count = 0.0, 0.0, 0
        scores: dict[str, float] = {}
        for held in self._sets:
            found = self._evaluate(x=held.x, y=held.y)
            hits, total = (float(np.ravel(found[name])[0]) for name in ("correct", "loss"))
            scores[f"accuracy/{held.name}"] = hits / len(held.x)
            correct, loss, count = correct + hits, loss + total, count + len(held.x)
        found_all = {"accuracy": correct / count, "loss": loss / count, **scores} if count else {}
        return {name: value for name, value in found_all.items() if isfinite(value)}


def _interpreter(graph: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - either runtime may be the installed one
    except ImportError:
        from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
    return Interpreter(model_content=graph, num_threads=1)
