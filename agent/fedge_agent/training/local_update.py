"""One device's share of a round: epochs of training from the global weights, and the clipped difference."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.interpreter import TrainableModel
from fedge_agent.training.pipe import Train
from fedge_agent.training.sources import Samples

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LocalUpdate:
    """`delta` (dim,) float32, already clipped to L2 `clip_norm`; the other fields as in `pipe.Trained`."""

    delta: Float32
    samples: int
    loss_first: float
    loss_last: float
    update_norm: float
    clipped: bool
    step_cpu_seconds: float


def parse_weights(content: bytes, dim: int) -> Float32:
    """Weights `(dim,)` from little-endian float32 bytes.

    Raises:
        TrainingError: `bad-weights`: wrong size, or a weight that is not finite.
    """
    if len(content) != 4 * dim:
        raise TrainingError(Reason.BAD_WEIGHTS, f"{len(content)} bytes, the graph has {dim} weights ({4 * dim} bytes)")
    weights = np.frombuffer(content, "<f4").astype(np.float32)
    if not np.isfinite(weights).all():
        raise TrainingError(Reason.BAD_WEIGHTS, f"weight {int(np.argmin(np.isfinite(weights)))} is not finite")
    return weights


def train_locally(
    model: TrainableModel,
    weights: Float32,
    samples: Samples,
    request: Train,
    on_epoch: Callable[[int, float], None],
    breathe: Callable[[], None] = lambda: None,
) -> LocalUpdate:
    """Train from `weights` and return the clipped difference; `on_epoch(number, mean_loss)` is called after each.

    `breathe` is called after every step.

    Of more than `max_samples` rows a random part is used, the same in every epoch. The last batch of an epoch may be
    short: its missing rows repeat others with weight zero, so every used row counts exactly once an epoch.

    Raises:
        TrainingError: `diverged`: a loss or a weight stopped being finite.
    """
    random = np.random.Generator(np.random.PCG64(request.shuffle_seed))
    chosen = random.permutation(len(samples.x))[: request.max_samples]
    model.set_weights(weights)
    model.snapshot()
    step = model.stepper(
        learning_rate=request.learning_rate, momentum=request.momentum, proximal_mu=request.proximal_mu
    )
    losses, started = [], time.process_time()
    for epoch in range(1, request.epochs + 1):
        total = 0.0
        for rows, weight in _batches(random.permutation(chosen), model.batch_size):
            loss = step(samples.x[rows], samples.y[rows], weight)
            total += loss * int(np.count_nonzero(weight))
            breathe()
        losses.append(total / len(chosen))
        if not np.isfinite(losses[-1]):
            raise TrainingError(Reason.DIVERGED, f"loss {losses[-1]} in epoch {epoch}; lower the learning rate")
        on_epoch(epoch, losses[-1])
    step_cpu_seconds = time.process_time() - started
    delta, norm = _clip(model.weights() - weights, request.clip_norm)
    return LocalUpdate(
        delta=delta,
        samples=len(chosen),
        loss_first=losses[0],
        loss_last=losses[-1],
        update_norm=norm,
        clipped=norm > request.clip_norm,
        step_cpu_seconds=step_cpu_seconds,
    )


def _batches(order: npt.NDArray[np.int64], size: int) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
    """Row numbers `(size,)` and weights `(size, 1)` of each batch: 1/n for n real rows, 0 for the fill."""
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        weight = np.zeros((size, 1), np.float32)
        weight[: len(rows)] = 1.0 / len(rows)
        yield np.resize(rows, size), weight


def _clip(delta: Float32, clip_norm: float) -> tuple[Float32, float]:
    """`delta` scaled down to L2 `clip_norm` if it is longer, and its norm before."""
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    if not np.isfinite(norm):
        raise TrainingError(Reason.DIVERGED, "a weight is not finite after training; lower the learning rate")
    if norm <= clip_norm:
        return delta, norm
    return (delta * (clip_norm / norm)).astype(np.float32), norm
