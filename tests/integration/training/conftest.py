"""A small classifier, its data and a request to train it, as files in a private directory."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedge_agent.training.pipe import Mask, Source, Train
from fedge_coordinator.modelkit.bundle import ModelBundle, build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec


@dataclass(frozen=True)
class Round:
    """`directory` is the worker's own; data and model lie outside of it."""

    directory: Path
    data: Path
    bundle: ModelBundle
    request: Train

    def changed(self, **fields: object) -> Train:
        return msgspec.structs.replace(self.request, **fields)


@pytest.fixture
def a_round(tmp_path):
    directory, data, model = (tmp_path / name for name in ("work", "data", "model"))
    for folder in (directory, data, model):
        folder.mkdir()
    section = {
        "input": 12,
        "layers": [{"dense": 16, "activation": "relu"}, {"dense": 3}],
        "loss": "softmax-cross-entropy",
        "batchSize": 8,
        "seed": 1,
    }
    bundle = build_bundle(parse_model_spec(section))
    (model / "graph.tflite").write_bytes(bundle.graph)
    (model / "weights.bin").write_bytes(bundle.weights)
    random = np.random.default_rng(4)
    x = random.standard_normal((203, 12)).astype(np.float32)
    np.savez(data / "samples.npz", x=x, y=np.argmax(x @ random.standard_normal((12, 3)), axis=1))
    request = Train(
        graph_path=str(model / "graph.tflite"),
        weights_path=str(model / "weights.bin"),
        source=Source(kind="directory", name="sensor", path=str(data)),
        epochs=5,
        learning_rate=0.1,
        momentum=0.0,
        proximal_mu=0.0,
        shuffle_seed=11,
        clip_norm=100.0,
        max_samples=1000,
    )
    return Round(directory, data, bundle, request)


@pytest.fixture
def mask_request(a_round):
    return Mask(
        pairs=(),
        self_seed=bytes(range(32)),
        suite=1,
        levels=1000,
        coordinate_range=1.0,
        rotation_seed=b"r" * 32,
        weight=3,
        weight_max=4,
        out_path=str(a_round.directory / "masked.bin"),
    )
