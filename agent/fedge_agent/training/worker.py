"""The worker process: `python -m fedge_agent.training.worker`, spoken to over standard input and output.

It lives for one round: one `Train`, then a `Mask` for every attempt, then `Quit` or the end of its input. The clear
update exists in its memory only. It confines itself before it reads anything that it was told to read.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fedge_agent.training.breath import Breath
from fedge_agent.training.confine import confine_files, confine_process, take_a_turn
from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.pipe import (
    HEADER_BYTES,
    Failed,
    Mask,
    Masked,
    PipeError,
    Progress,
    Quit,
    Reply,
    Request,
    Train,
    Trained,
    body_length,
    decode_request,
    frame,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_GRAPH_BYTES = 64 << 20
MAX_DETAIL_CHARS = 2000
CPU_DESCRIPTIONS = (Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu"))  # choose the runtime's fast kernels
EXIT_PIPE, EXIT_ORPHAN = 3, 4


class Worker:
    """Answers requests one after another; `measures` is what `confine_process` reported."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO, directory: Path, measures: dict[str, str]) -> None:
        self._requests = requests
        self._replies = replies
        self._directory = directory
        self._measures = measures
        self._trained = False
        self._delta: npt.NDArray[np.float32] | None = None

    def serve(self) -> None:
        """Answer until `Quit` or the end of input.

        Raises:
            PipeError: the parent sent something that is no request.
        """
        while True:
            request = self._receive()
            if request is None or isinstance(request, Quit):
                return
            try:
                self._send(self._train(request) if isinstance(request, Train) else self._mask(request))
            except TrainingError as error:
                self._send(Failed(error.reason, error.detail[:MAX_DETAIL_CHARS]))
            except MemoryError:
                self._send(Failed(Reason.OUT_OF_MEMORY, "model and samples do not fit into the memory allowed"))

    def _train(self, request: Train) -> Trained:
        if self._trained:
            raise TrainingError(Reason.BAD_REQUEST, "this worker has trained already; start another one")
        self._trained = True
        # Shared libraries are loaded before the file system closes; a worker that never trains pays for none.
        from fedge_agent.training import local_update, masked_update, sources  # noqa: F401, PLC0415 - see above
        from fedge_agent.training.interpreter import TrainableModel  # noqa: PLC0415 - see above

        graph_path, weights_path, data_path = (
            Path(path) for path in (request.graph_path, request.weights_path, request.source.path)
        )
        # Python and numpy import modules (codecs, for one) when they first need them.
        modules = (Path(entry) for entry in sys.path if entry)
        measures = self._measures | confine_files(
            readable=(graph_path, weights_path, data_path, *modules, *CPU_DESCRIPTIONS),
            writable_directory=self._directory,
        )
        model = TrainableModel(_read(graph_path, MAX_GRAPH_BYTES))
        weights = local_update.parse_weights(_read(weights_path, 4 * model.dim + 1), model.dim)
        samples = sources.load_samples(request.source, input_dim=model.input_dim, output_dim=model.output_dim)
        update = local_update.train_locally(
            model,
            weights,
            samples,
            request,
            lambda epoch, loss: self._send(Progress(epoch=epoch, epochs=request.epochs, loss=loss)),
            Breath().breathe,
        )
        self._delta = update.delta
        return Trained(
            samples=update.samples,
            loss_first=update.loss_first,
            loss_last=update.loss_last,
            update_norm=update.update_norm,
            clipped=update.clipped,
            dim=model.dim,
            cpu_seconds=time.process_time(),
            step_cpu_seconds=update.step_cpu_seconds,
            confinement=measures,
        )

    def _mask(self, request: Mask) -> Masked:
        if self._delta is None:
            raise TrainingError(Reason.BAD_REQUEST, "nothing to mask: no training has succeeded in this worker")
        from fedge_agent.training.masked_update import masked_bytes, write_masked  # noqa: PLC0415 - as in _train

        started = time.process_time()
        take_a_turn()
        content = masked_bytes(self._delta, request)
        digest = write_masked(content, Path(request.out_path))
        return Masked(sha256=digest, size=len(content), cpu_seconds=time.process_time() - started)

    def _receive(self) -> Request | None:
        header = self._requests.read(HEADER_BYTES)
        if not header:
            return None
        length = body_length(header)
        body = self._requests.read(length)
        if len(body) != length:
            raise PipeError(f"the parent closed the pipe after {len(body)} of {length} bytes")
        return decode_request(body)

    def _send(self, reply: Reply) -> None:
        self._replies.write(frame(reply))
        self._replies.flush()


def _read(path: Path, limit: int) -> bytes:
    """Content of a file, at most `limit` bytes.

    Raises:
        TrainingError: `unreadable`, also when it is longer.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise TrainingError(Reason.UNREADABLE, f"{path}: {error.strerror}") from error
    if len(content) > limit:
        raise TrainingError(Reason.UNREADABLE, f"{path}: longer than {limit} bytes")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker on standard input and output; exit 0 after `Quit`, 3 on a broken pipe, 4 when the parent is gone."""
    parser = argparse.ArgumentParser(prog="fedge-worker", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the only place where the worker may write")
    parser.add_argument("--parent", type=int, required=True, help="process id whose end is also the worker's")
    parser.add_argument("--nice", type=int, default=19, help="0 to 19")
    parser.add_argument("--idle", action="store_true", help="run under SCHED_IDLE")
    options = parser.parse_args(arguments)
    # Libraries may print; their words must not end up between the frames.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        measures = confine_process(options.parent, nice=options.nice, idle=options.idle)
        Worker(requests, replies, options.directory, measures).serve()
    except ProcessLookupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent collects standard error
        return EXIT_ORPHAN
    except (PipeError, BrokenPipeError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent collects standard error
        return EXIT_PIPE
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Taking down an interpreter full of numerical libraries costs 50 ms of CPU, and nothing is left to do.
    os._exit(status)
