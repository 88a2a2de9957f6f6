"""The process that holds the interpreter: one model, questions on standard input, answers on standard output.

`python -m fedge_agent.inference.child`. A model file that takes it over finds no network, no file but the model's, and
no more than the questions that programs on this device ask. Start: one line of JSON. Then for each question the number
of rows (u32, little-endian) and the rows (float32, little-endian); for each answer a byte (0: rows follow, 1: words
follow), a length (u32) and so many bytes.
"""

import argparse
import hashlib
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from fedge_agent.training.confine import confine_files, confine_process
from fedge_agent.training.failure import Reason, TrainingError

COUNT: Final = struct.Struct("<I")
ANSWER: Final = struct.Struct("<BI")
ROWS, WORDS = 0, 1
MAX_ROWS: Final = 65_536
_MAX_GRAPH_BYTES: Final = 16 << 20
_CPU_DESCRIPTIONS: Final = (Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu"))


def serve(questions: BinaryIO, answers: BinaryIO, graph: Path, weights: Path, measures: dict[str, str]) -> None:
    """Load the model, say what it is, and answer until the end of input."""
    # Shared libraries are loaded before the file system closes.
    import numpy as np  # noqa: PLC0415 - see above

    from fedge_agent.training.interpreter import TrainableModel  # noqa: PLC0415
    from fedge_agent.training.local_update import parse_weights  # noqa: PLC0415

    modules = (Path(entry) for entry in sys.path if entry)
    measures |= confine_files(readable=(graph, weights, *modules, *_CPU_DESCRIPTIONS), writable_directory=None)
    try:
        model = TrainableModel(_read(graph, _MAX_GRAPH_BYTES))
        model.set_weights(parse_weights(_read(weights, 4 * model.dim + 1), model.dim))
    except TrainingError as error:
        _say(answers, {"reason": error.reason, "detail": error.detail[:500]})
        return
    _say(
        answers,
        {
            "input_dim": model.input_dim,
            "output_dim": model.output_dim,
            "dim": model.dim,
            "confinement": measures,
        },
    )
    while header := questions.read(COUNT.size):
        (rows,) = COUNT.unpack(header)
        body = questions.read(4 * rows * model.input_dim)
        x = np.frombuffer(body, "<f4").astype(np.float32).reshape(rows, model.input_dim)
        if not np.isfinite(x).all():
            row = int(np.argmin(np.isfinite(x).all(axis=1)))
            _answer(answers, WORDS, f"row {row} holds a number that is not finite".encode())
            continue
        _answer(answers, ROWS, np.ascontiguousarray(model.infer(x), "<f4").tobytes())


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise TrainingError(Reason.UNREADABLE, f"{path.name}: {error.strerror}") from error
    if len(content) > limit:
        raise TrainingError(Reason.UNREADABLE, f"{path.name}: longer than {limit} bytes")
    if hashlib.sha256(content).hexdigest() != path.name:
        raise TrainingError(Reason.UNREADABLE, f"{path.name}: its content has another SHA-256")
    return content


def _say(answers: BinaryIO, found: dict[str, object]) -> None:
    answers.write(json.dumps(found).encode() + b"\n")
    answers.flush()


def _answer(answers: BinaryIO, kind: int, content: bytes) -> None:
    answers.write(ANSWER.pack(kind, len(content)) + content)
    answers.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on standard input and output until they end."""
    parser = argparse.ArgumentParser(prog="fedge-inference-child")
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True, help="process id whose end is also this one's")
    options = parser.parse_args(arguments)
    # Libraries may print; their words must not end up between the answers.
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    measures = confine_process(options.parent, nice=0, idle=False)
    serve(questions, answers, options.graph, options.weights, measures)
    return 0


if __name__ == "__main__":
    status = main()
    os._exit(status)  # taking down an interpreter full of numerical libraries costs 50 ms of CPU
