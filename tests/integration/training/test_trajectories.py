"""The graphs against trajectories of TensorFlow's own gradients (tests/vectors/training/make_trajectories.py)."""

from pathlib import Path

import numpy as np
import pytest

from fedge_agent.training.interpreter import TrainableModel
from fedge_coordinator.modelkit.signatures import build_graph
from fedge_coordinator.modelkit.spec import parse_model_spec

VECTORS = Path(__file__).parents[2] / "vectors" / "training"
LAYERS = {
    "classifier-relu-sgd": [(16, "relu"), (8, "relu"), (5, "linear")],
    "classifier-relu-short-batches": [(16, "relu"), (5, "linear")],
    "classifier-relu-momentum": [(16, "relu"), (5, "linear")],
    "classifier-tanh-prox": [(16, "tanh"), (5, "linear")],
    "autoencoder-tanh-sgd": [(12, "tanh"), (4, "tanh"), (12, "tanh"), (20, "linear")],
    "autoencoder-tanh-prox-momentum": [(8, "tanh"), (20, "linear")],
}


def replay(name, *, raw):
    reference = np.load(VECTORS / f"{name}.npz")
    section = {
        "input": reference["x"].shape[1],
        "layers": [{"dense": units, "activation": activation} for units, activation in LAYERS[name]],
        "loss": "softmax-cross-entropy" if name.startswith("classifier") else "mean-squared-error",
        "batchSize": reference["rows"].shape[1],
    }
    model = TrainableModel(build_graph(parse_model_spec(section)))
    model.set_weights(reference["anchor"])
    model.snapshot()
    model.set_weights(reference["before"])
    rate, momentum, mu = (float(setting) for setting in reference["settings"])
    step = model.stepper(learning_rate=rate, momentum=momentum, proximal_mu=mu, raw=raw)
    assert step.__name__ == ("raw_step" if raw else "checked_step")
    losses = []
    for rows in reference["rows"]:
        weight = np.where(rows >= 0, 1 / np.count_nonzero(rows >= 0), 0).astype(np.float32)[:, None]
        losses.append(step(reference["x"][rows], reference["y"][rows], weight))
    return reference, np.array(losses), model.weights()


@pytest.mark.parametrize("name", LAYERS)
def test_a_hundred_steps_agree_with_tensorflow(name):
    reference, losses, weights = replay(name, raw=True)
    assert len(losses) == 100
    assert np.abs(weights - reference["before"]).max() > 0.05
    np.testing.assert_allclose(losses, reference["losses"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights, reference["after"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_the_raw_step_and_the_signature_runner_give_the_same_bits(name):
    _, raw_losses, raw_weights = replay(name, raw=True)
    _, losses, weights = replay(name, raw=False)
    np.testing.assert_array_equal(raw_losses, losses)
    np.testing.assert_array_equal(raw_weights, weights)
