import hashlib

import numpy as np
import pytest

from fedge_coordinator.modelkit.bundle import build_bundle, initial_weights
from fedge_coordinator.modelkit.schema import Op
from fedge_coordinator.modelkit.signatures import build_graph
from fedge_coordinator.modelkit.spec import parse_model_spec

try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter

CLASSIFIER = {
    "input": 6,
    "layers": [{"dense": 5, "activation": "relu"}, {"dense": 4, "activation": "tanh"}, {"dense": 3}],
    "loss": "softmax-cross-entropy",
    "batchSize": 8,
}
AUTOENCODER = {
    "input": 6,
    "layers": [{"dense": 2, "activation": "tanh"}, {"dense": 6}],
    "loss": "mean-squared-error",
    "batchSize": 4,
}


def loaded(section, seed=0):
    spec = parse_model_spec(section | {"seed": seed})
    interpreter = Interpreter(model_content=build_graph(spec), num_threads=1)
    weights = np.frombuffer(initial_weights(spec), "<f4")
    interpreter.get_signature_runner("set_flat")(flat=weights)
    return spec, interpreter, weights


def unflatten(spec, flat):
    start, layers = 0, []
    for units, width in spec.shapes:
        kernel = flat[start : start + units * width].reshape(units, width).astype(np.float64)
        layers.append((kernel, flat[start + units * width : start + units * width + units].astype(np.float64)))
        start += units * width + units
    return layers


def oracle(spec, flat, x):
    out = x.astype(np.float64)
    for layer, (kernel, bias) in zip(spec.layers, unflatten(spec, flat), strict=True):
        out = out @ kernel.T + bias
        if layer.activation == "relu":
            out = np.maximum(out, 0)
        elif layer.activation == "tanh":
            out = np.tanh(out)
    return out


def oracle_loss(spec, flat, x, y):
    out = oracle(spec, flat, x)
    if spec.loss == "mean-squared-error":
        return np.mean((out - y) ** 2, axis=1)
    logs = out - out.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return -(y * logs).sum(axis=1)


def batch(spec, n, seed=3):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, spec.input_dim)).astype(np.float32)
    if spec.loss == "mean-squared-error":
        return x, x
    return x, np.eye(spec.output_dim, dtype=np.float32)[random.integers(0, spec.output_dim, n)]


@pytest.mark.parametrize("section", [CLASSIFIER, AUTOENCODER])
def test_the_signatures_take_and_give_what_the_contract_says(section):
    spec, interpreter, _ = loaded(section)
    found = interpreter.get_signature_list()
    batched = ["lr", "weight", "x", "y"]
    assert {name: sorted(io["inputs"]) for name, io in found.items()} == {
        "train": batched,
        "train_prox": sorted([*batched, "mu", "momentum"]),
        "infer": ["x"],
        "evaluate": ["x", "y"],
        "get_flat": [],
        "set_flat": ["flat"],
        "snapshot": [],
    }
    shapes = interpreter.get_signature_runner("train").get_input_details()
    assert tuple(shapes["x"]["shape"]) == (spec.batch_size, spec.input_dim)
    assert tuple(shapes["y"]["shape"]) == (spec.batch_size, spec.output_dim)
    flat = interpreter.get_signature_runner("get_flat").get_output_details()["flat"]
    assert tuple(flat["shape"]) == (spec.parameter_count,)


def test_only_built_in_operators_are_used():
    _, interpreter, _ = loaded(CLASSIFIER)
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert names <= {op.name for op in Op} | {"DELEGATE"}


@pytest.mark.parametrize("section", [CLASSIFIER, AUTOENCODER])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_infer_agrees_with_numpy_for_any_number_of_samples(section, n):
    spec, interpreter, weights = loaded(section)
    x, _ = batch(spec, n)
    expected = oracle(spec, weights, x)
    if spec.loss == "softmax-cross-entropy":
        expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(interpreter.get_signature_runner("infer")(x=x)["out"], expected, atol=1e-6)


@pytest.mark.parametrize("section", [CLASSIFIER, AUTOENCODER])
def test_evaluate_returns_the_summed_loss_and_the_count_of_right_answers(section):
    spec, interpreter, weights = loaded(section)
    x, y = batch(spec, 50)
    sums = interpreter.get_signature_runner("evaluate")(x=x, y=y)
    np.testing.assert_allclose(np.ravel(sums["loss"])[0], oracle_loss(spec, weights, x, y).sum(), rtol=1e-5)
    right = np.sum(oracle(spec, weights, x).argmax(axis=1) == y.argmax(axis=1))
    assert np.ravel(sums["correct"])[0] == (right if spec.loss == "softmax-cross-entropy" else 0)


@pytest.mark.parametrize("section", [CLASSIFIER, AUTOENCODER])
def test_a_training_step_follows_the_numerical_gradient(section):
    spec, interpreter, weights = loaded(section)
    x, y = batch(spec, spec.batch_size)
    share = np.full((spec.batch_size, 1), 1 / spec.batch_size, np.float32)
    runner = interpreter.get_signature_runner("train")
    loss = np.ravel(runner(x=x, y=y, weight=share, lr=np.float32(1.0))["loss"])[0]
    np.testing.assert_allclose(loss, oracle_loss(spec, weights, x, y).mean(), rtol=1e-5)
    gradient = weights - interpreter.get_signature_runner("get_flat")()["flat"]
    for index in range(0, spec.parameter_count, 3):
        nudge = np.zeros(spec.parameter_count)
        nudge[index] = 1e-5
        up, down = (oracle_loss(spec, weights + sign * nudge, x, y).mean() for sign in (1, -1))
        assert abs(gradient[index] - (up - down) / 2e-5) < 2e-5


def test_rows_with_weight_zero_change_nothing():
    spec, interpreter, weights = loaded(CLASSIFIER)
    x, y = batch(spec, spec.batch_size)
    share = np.zeros((spec.batch_size, 1), np.float32)
    share[:3] = 1 / 3
    results = []
    for fill in (0.0, 100.0):
        x[3:] = fill
        interpreter.get_signature_runner("set_flat")(flat=weights)
        interpreter.get_signature_runner("train")(x=x, y=y, weight=share, lr=np.float32(0.1))
        results.append(interpreter.get_signature_runner("get_flat")()["flat"].copy())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], weights)


def test_train_prox_without_momentum_and_pull_is_train_bit_for_bit():
    after = []
    for signature in ("train", "train_prox"):
        spec, interpreter, _ = loaded(CLASSIFIER)
        interpreter.get_signature_runner("snapshot")()
        x, y = batch(spec, spec.batch_size)
        extra = {"mu": np.float32(0), "momentum": np.float32(0)} if signature == "train_prox" else {}
        runner = interpreter.get_signature_runner(signature)
        for _ in range(20):
            runner(x=x, y=y, weight=np.full((8, 1), 0.125, np.float32), lr=np.float32(0.1), **extra)
        after.append(interpreter.get_signature_runner("get_flat")()["flat"].copy())
    np.testing.assert_array_equal(after[0], after[1])


def test_snapshot_forgets_the_momentum():
    spec, interpreter, weights = loaded(AUTOENCODER)
    x, y = batch(spec, spec.batch_size)
    settings = {"lr": np.float32(0.1), "mu": np.float32(0), "momentum": np.float32(0.9)}
    runner = interpreter.get_signature_runner("train_prox")
    results = []
    for _ in range(2):
        interpreter.get_signature_runner("set_flat")(flat=weights)
        interpreter.get_signature_runner("snapshot")()
        for _ in range(3):
            runner(x=x, y=y, weight=np.full((4, 1), 0.25, np.float32), **settings)
        results.append(interpreter.get_signature_runner("get_flat")()["flat"].copy())
    np.testing.assert_array_equal(results[0], results[1])


def test_a_fresh_model_is_all_zeros_until_weights_are_set():
    spec = parse_model_spec(CLASSIFIER)
    interpreter = Interpreter(model_content=build_graph(spec), num_threads=1)
    assert not interpreter.get_signature_runner("get_flat")()["flat"].any()


def test_two_builds_give_the_same_bytes_and_the_graph_holds_no_weights():
    bundles = [build_bundle(parse_model_spec(CLASSIFIER | {"seed": seed})) for seed in (1, 1, 2)]
    assert bundles[0] == bundles[1]
    assert bundles[0].graph == bundles[2].graph
    assert bundles[0].weights != bundles[2].weights


def test_a_bundle_names_its_parts_by_hash():
    spec = parse_model_spec(CLASSIFIER)
    bundle = build_bundle(spec)
    assert bundle.graph_sha256 == hashlib.sha256(bundle.graph).digest()
    assert bundle.weights_sha256 == hashlib.sha256(bundle.weights).digest()
    assert len(bundle.weights) == 4 * bundle.parameter_count == 4 * spec.parameter_count
    assert bundle.graph[4:8] == b"TFL3"


def test_initial_kernels_are_within_the_glorot_bound_and_biases_are_zero():
    spec = parse_model_spec({"input": 300, "layers": [{"dense": 100}], "loss": "mean-squared-error", "seed": 9})
    ((kernel, bias),) = unflatten(spec, np.frombuffer(initial_weights(spec), "<f4"))
    limit = np.sqrt(6 / 400)
    assert np.abs(kernel).max() <= limit
    assert abs(kernel.std() - limit / np.sqrt(3)) < 0.02 * limit
    assert abs(kernel.mean()) < 0.02 * limit
    assert not bias.any()
