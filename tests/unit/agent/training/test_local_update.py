import gc
import weakref

import msgspec
import numpy as np
import pytest

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.interpreter import TrainableModel
from fedge_agent.training.local_update import parse_weights, train_locally
from fedge_agent.training.pipe import Source, Train
from fedge_agent.training.sources import Samples
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec

REQUEST = Train(
    graph_path="g",
    weights_path="w",
    source=Source(kind="directory", name="n", path="p"),
    epochs=2,
    learning_rate=0.1,
    momentum=0.0,
    proximal_mu=0.0,
    shuffle_seed=7,
    clip_norm=1e6,
    max_samples=1000,
)
BUNDLE = build_bundle(
    parse_model_spec({"input": 3, "layers": [{"dense": 2}], "loss": "mean-squared-error", "batchSize": 8})
)


def draw_samples(n):
    random = np.random.default_rng(0)
    x = random.standard_normal((n, 3)).astype(np.float32)
    return Samples(x, np.ascontiguousarray(x[:, :2] * 2))


def update(samples, **changes):
    model = TrainableModel(BUNDLE.graph)
    weights = parse_weights(BUNDLE.weights, model.dim)
    return train_locally(model, weights, samples, msgspec.structs.replace(REQUEST, **changes), lambda epoch, loss: None)


def oracle(samples, *, batches, rate=0.1, epochs=1):
    """Plain float64 SGD of the linear model over the given batches of rows."""
    flat = np.frombuffer(BUNDLE.weights, "<f4").astype(np.float64)
    kernel, bias = flat[:6].reshape(2, 3).copy(), flat[6:].copy()
    for rows in batches * epochs:
        error = samples.x[rows] @ kernel.T + bias - samples.y[rows]
        slope = error * 2 / error.size
        kernel -= rate * slope.T @ samples.x[rows]
        bias -= rate * slope.sum(axis=0)
    return np.concatenate([kernel.ravel(), bias]) - flat


def test_a_batch_that_is_not_full_trains_on_the_rows_it_has():
    samples = draw_samples(5)
    result = update(samples, epochs=3)
    np.testing.assert_allclose(result.delta, oracle(samples, batches=[np.arange(5)], epochs=3), atol=1e-6)
    assert result.samples == 5


def test_every_row_counts_once_an_epoch():
    samples = draw_samples(11)
    rate = 1e-4
    result = update(samples, epochs=1, learning_rate=rate)
    # With a tiny rate the steps add up: 8 rows at 1/8 each and 3 rows at 1/3 each, whatever the order.
    random = np.random.Generator(np.random.PCG64(REQUEST.shuffle_seed))
    order = random.permutation(random.permutation(11))
    expected = oracle(samples, batches=[order[:8], order[8:]], rate=rate)
    np.testing.assert_allclose(result.delta, expected, atol=1e-7)


def test_the_same_seed_gives_the_same_update_and_another_one_another():
    samples = draw_samples(100)
    first, again, other = (update(samples, shuffle_seed=seed).delta for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_at_most_max_samples_rows_are_used_and_the_same_in_every_epoch():
    samples = draw_samples(100)
    random = np.random.Generator(np.random.PCG64(REQUEST.shuffle_seed))
    used = random.permutation(100)[:8]
    result = update(samples, max_samples=8, epochs=4)
    assert result.samples == 8
    np.testing.assert_allclose(result.delta, oracle(samples, batches=[used], epochs=4), atol=1e-6)


def test_a_long_update_is_scaled_to_the_clip_norm_and_keeps_its_direction():
    samples = draw_samples(64)
    whole, clipped = update(samples), update(samples, clip_norm=0.01)
    assert (whole.clipped, clipped.clipped) == (False, True)
    assert clipped.update_norm == whole.update_norm == pytest.approx(np.linalg.norm(whole.delta))
    assert np.linalg.norm(clipped.delta) == pytest.approx(0.01)
    np.testing.assert_allclose(clipped.delta / 0.01, whole.delta / whole.update_norm, atol=1e-6)


def test_the_proximal_term_keeps_the_update_short():
    samples = draw_samples(64)
    norms = [update(samples, proximal_mu=mu, epochs=20).update_norm for mu in (0.0, 1.0, 5.0)]
    assert norms[0] > norms[1] > norms[2] > 0


def test_a_model_starts_every_training_without_momentum():
    samples = draw_samples(64)
    model = TrainableModel(BUNDLE.graph)
    weights = parse_weights(BUNDLE.weights, model.dim)
    request = msgspec.structs.replace(REQUEST, momentum=0.9)
    first, second = (train_locally(model, weights, samples, request, lambda epoch, loss: None) for _ in range(2))
    np.testing.assert_array_equal(first.delta, second.delta)


def test_a_loss_that_is_not_finite_stops_the_training():
    epochs = []
    model = TrainableModel(BUNDLE.graph)
    weights = parse_weights(BUNDLE.weights, model.dim)
    request = msgspec.structs.replace(REQUEST, learning_rate=1e9, epochs=50)
    with pytest.raises(TrainingError) as refusal:
        train_locally(model, weights, draw_samples(64), request, lambda epoch, loss: epochs.append(epoch))
    assert refusal.value.reason is Reason.DIVERGED
    assert len(epochs) < 5


def test_a_model_without_the_signatures_is_refused():
    with pytest.raises(TrainingError, match="bad-graph: not a Fedge model"):
        TrainableModel(b"no flatbuffer at all")


def test_a_model_infers_and_evaluates():
    samples = draw_samples(10)
    model = TrainableModel(BUNDLE.graph)
    model.set_weights(parse_weights(BUNDLE.weights, model.dim))
    out = model.infer(samples.x)
    loss, correct = model.evaluate(samples.x, samples.y)
    assert loss == pytest.approx(np.mean((out - samples.y) ** 2, axis=1).sum(), rel=1e-5)
    assert correct == 0


@pytest.mark.parametrize("raw", [True, False])
def test_a_step_keeps_the_graph_that_it_runs_in_alive(raw):
    model = TrainableModel(bytes(bytearray(BUNDLE.graph)))
    interpreter = weakref.ref(model._interpreter)
    step = model.stepper(learning_rate=0.1, raw=raw)
    del model
    gc.collect()
    assert interpreter() is not None
    del step
    gc.collect()
    assert interpreter() is None
