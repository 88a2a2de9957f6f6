"""CPU time of a training step, side by side with the same step in numpy and, when installed, in PyTorch.

All start from the same weights, see the same batches and give the same losses, with one thread each. `--json` prints
the result alone.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# ruff: noqa: E402 - numerical libraries read the number of threads when they are imported
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import numpy.typing as npt

from fedge_agent.training.interpreter import TrainableModel
from fedge_agent.training.pipe import Source, Train
from fedge_agent.training.supervisor import Worker
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import ModelSpec, parse_model_spec
from figures import bar, machine, table

Float32 = npt.NDArray[np.float32]
Step = Callable[[Float32, Float32], float]

RATE, BATCH, BATCHES, REPEATS = 0.05, 16, 500, 15
MOMENTUM, MU = 0.9, 0.01
STEP_BAR_US = 20.0
AGREEMENT = 1e-4


def main() -> int:
    """Measure and print; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    result = measure()
    if options.json:
        print(json.dumps(result))
    else:
        print(table(result["bars"]))
        print(json.dumps(result["details"], indent=2))
    return 0 if all(line["ok"] for line in result["bars"]) else 1


def measure() -> dict[str, Any]:
    """The whole result in the format of all benchmarks."""
    spec = parse_model_spec(
        {
            "input": 64,
            "layers": [{"dense": 32, "activation": "relu"}, {"dense": 10}],
            "loss": "softmax-cross-entropy",
            "batchSize": BATCH,
        }
    )
    random = np.random.default_rng(1)
    x = random.standard_normal((BATCHES, BATCH, 64)).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[random.integers(0, 10, (BATCHES, BATCH))]
    steps = {
        "tflite": tflite_step(spec, raw=True),
        "tflite, signature runner": tflite_step(spec, raw=False),
        "tflite, momentum and proximal term": tflite_step(spec, raw=True, momentum=MOMENTUM, mu=MU),
        "numpy": numpy_step(spec),
    }
    missing = []
    try:
        steps["torch"] = torch_step(spec)
    except ImportError:
        missing.append("torch is not installed: its part is skipped")
    losses = {name: [step(a, b) for a, b in zip(x, y, strict=True)] for name, step in steps.items()}
    for name in steps.keys() - {"tflite, momentum and proximal term"}:
        if np.abs(np.subtract(losses[name], losses["tflite"])).max() > AGREEMENT:
            raise SystemExit(f"{name} does not compute the same losses as tflite")
    cpu_us = interleaved_medians(steps, x, y)
    peer = "torch" if "torch" in cpu_us else "numpy"
    return {
        "bench": "training",
        "machine": machine(),
        "bars": [
            bar(
                "training step, MLP 64-32-10, batch 16",
                "us CPU",
                cpu_us["tflite"],
                STEP_BAR_US,
                peer=f"{peer} (same losses)",
                peer_value=cpu_us[peer],
            )
        ],
        "details": {
            "step_cpu_us": {name: round(us, 1) for name, us in cpu_us.items()},
            "graph_bytes": len(build_bundle(spec).graph),
            "worker": asyncio.run(worker_costs(spec)),
            "skipped": missing,
        },
    }


def interleaved_medians(steps: dict[str, Step], x: Float32, y: Float32) -> dict[str, float]:
    """Median CPU time in us a step; the contestants take turns, so that a slow moment of the machine hits all."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            started = time.process_time()
            for index in range(BATCHES):
                step(x[index], y[index])
            found[name].append((time.process_time() - started) / BATCHES * 1e6)
    return {name: statistics.median(times) for name, times in found.items()}


def tflite_step(spec: ModelSpec, *, raw: bool, momentum: float = 0.0, mu: float = 0.0) -> Step:
    """What the worker runs."""
    bundle = build_bundle(spec)
    model = TrainableModel(bundle.graph)
    model.set_weights(np.frombuffer(bundle.weights, "<f4"))
    model.snapshot()
    step = model.stepper(learning_rate=RATE, momentum=momentum, proximal_mu=mu, raw=raw)
    weight = np.full((BATCH, 1), 1 / BATCH, np.float32)
    return lambda x, y: step(x, y, weight)


def layers(spec: ModelSpec) -> list[tuple[Float32, Float32]]:
    """Initial kernels (units, inputs) and biases (units,)."""
    flat, start, found = np.frombuffer(build_bundle(spec).weights, "<f4"), 0, []
    for units, width in spec.shapes:
        kernel = flat[start : start + units * width].reshape(units, width).copy()
        start += units * width
        found.append((kernel, flat[start : start + units].copy()))
        start += units
    return found


def numpy_step(spec: ModelSpec) -> Step:
    """The same step by hand: two products forward, three backward, updates in place."""
    (w0, b0), (w1, b1) = layers(spec)

    def step(x: Float32, y: Float32) -> float:
        hidden = np.maximum(x @ w0.T + b0, 0)
        logits = hidden @ w1.T + b1
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        loss = float((y * (np.log(sums) - logits)).sum() / BATCH)
        slope = (exponentials / sums - y) / np.float32(BATCH)
        below = (slope @ w1) * (hidden > 0)
        w1[:] -= np.float32(RATE) * (slope.T @ hidden)
        b1[:] -= np.float32(RATE) * slope.sum(axis=0)
        w0[:] -= np.float32(RATE) * (below.T @ x)
        b0[:] -= np.float32(RATE) * below.sum(axis=0)
        return loss

    return step


def torch_step(spec: ModelSpec) -> Step:
    """The same step as PyTorch users write it.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - an optional peer

    torch.set_num_threads(1)
    modules: list[Any] = []
    for kernel, bias in layers(spec):
        linear = torch.nn.Linear(kernel.shape[1], kernel.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel))
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1])
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE)

    def step(x: Float32, y: Float32) -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step


async def worker_costs(spec: ModelSpec) -> dict[str, float]:
    """CPU seconds of a whole worker process that trains one epoch of 400 rows, imports included."""
    bundle = build_bundle(spec)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "graph").write_bytes(bundle.graph)
        (directory / "weights").write_bytes(bundle.weights)
        random = np.random.default_rng(1)
        np.savez(directory / "rows.npz", x=random.standard_normal((400, 64)), y=random.integers(0, 10, 400))
        request = Train(
            graph_path=str(directory / "graph"),
            weights_path=str(directory / "weights"),
            source=Source(kind="directory", name="bench", path=str(directory / "rows.npz")),
            epochs=1,
            learning_rate=RATE,
            momentum=0.0,
            proximal_mu=0.0,
            shuffle_seed=1,
            clip_norm=1.0,
            max_samples=400,
        )
        totals, steps = [], []
        for _ in range(5):
            async with Worker(directory, idle=False, nice=0) as worker:
                trained = await worker.train(request)
            totals.append(trained.cpu_seconds)
            steps.append(trained.step_cpu_seconds)
    return {
        "cpu_seconds": round(statistics.median(totals), 4),
        "of_which_training_steps": round(statistics.median(steps), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
