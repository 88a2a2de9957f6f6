from pathlib import Path

import numpy as np
import pytest

from fedge_coordinator.aggregation.evaluation import Evaluator, HeldOut, load_held_out
from fedge_coordinator.modelkit.bundle import ModelBundle, build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec

X = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
LABELS = np.arange(20) % 3


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    section = {"input": 4, "layers": [{"dense": 3}], "loss": "softmax-cross-entropy", "batchSize": 4, "seed": 1}
    return build_bundle(parse_model_spec(section))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "held-out.npz"


def test_labels_and_one_hot_rows_are_the_same_set(path):
    np.savez(path, x=X, y=LABELS)
    (labels,) = load_held_out([path], 3)
    np.savez(path, x=X, y=np.eye(3)[LABELS])
    (rows,) = load_held_out([path], 3)
    np.testing.assert_array_equal(labels.y, rows.y)
    assert labels.name == "held-out"
    assert labels.y.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": X}, "wants arrays x and y"),
        ({"x": X, "y": LABELS - 1}, r"not whole numbers of 0\.\.2"),
        ({"x": X, "y": LABELS + 1}, r"not whole numbers of 0\.\.2"),
        ({"x": X, "y": LABELS + 0.5}, r"not whole numbers of 0\.\.2"),
        ({"x": X, "y": LABELS[:-1]}, "do not fit 3 outputs"),
        ({"x": X, "y": np.eye(4)[LABELS]}, "do not fit 3 outputs"),
        ({"x": X[0], "y": LABELS[:1]}, "do not fit 3 outputs"),
        ({"x": X[:0], "y": LABELS[:0]}, "do not fit 3 outputs"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name(path, arrays, match):
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match) as caught:
        load_held_out([path], 3)
    assert str(path) in str(caught.value)


def test_no_pickle_is_ever_read(path):
    np.savez(path, x=np.array([{"a": 1}], dtype=object), y=LABELS)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_held_out([path], 3)


def test_a_checkpoint_is_scored_over_all_sets_and_over_each(bundle):
    sets = [
        HeldOut("a", X[:5], np.eye(3, dtype=np.float32)[LABELS[:5]]),
        HeldOut("b", X, np.eye(3, dtype="f4")[LABELS]),
    ]
    evaluator = Evaluator(bundle.graph, sets)
    weights = np.frombuffer(bundle.weights, "<f4").copy()
    found = evaluator.score(weights.tobytes())
    logits = X @ weights[:12].reshape(3, 4).T + weights[12:]  # TFLite keeps a dense layer as (outputs, inputs)
    hits = np.argmax(logits, axis=1) == LABELS
    assert found["accuracy/b"] == pytest.approx(hits.mean())
    assert found["accuracy"] == pytest.approx((hits.sum() + hits[:5].sum()) / 25)
    assert found["loss"] > 0
    assert evaluator.score(weights.tobytes()) == found


def test_a_model_that_diverged_has_no_loss_that_a_record_could_not_hold(bundle):
    evaluator = Evaluator(bundle.graph, [HeldOut("a", X, np.eye(3, dtype=np.float32)[LABELS])])
    scores = evaluator.score(np.full(len(bundle.weights) // 4, 3e38, "<f4").tobytes())
    assert all(np.isfinite(value) for value in scores.values())
    assert "accuracy" in scores


def test_without_held_out_data_there_is_no_score(bundle):
    assert Evaluator(bundle.graph, []).score(bundle.weights) == {}
