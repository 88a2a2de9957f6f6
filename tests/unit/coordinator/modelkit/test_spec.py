import pytest

from fedge_coordinator.modelkit.spec import Activation, DenseLayer, Loss, ModelSpec, ModelSpecError, parse_model_spec

GOOD = {
    "input": 6,
    "layers": [{"dense": 4, "activation": "relu"}, {"dense": 3}],
    "loss": "softmax-cross-entropy",
    "batchSize": 8,
    "seed": 5,
}


def test_a_model_section_becomes_a_frozen_value():
    spec = parse_model_spec(GOOD)
    layers = (DenseLayer(4, Activation.RELU), DenseLayer(3, Activation.LINEAR))
    assert spec == ModelSpec(6, layers, Loss.CROSS_ENTROPY, batch_size=8, seed=5)
    assert spec.shapes == ((4, 6), (3, 4))
    assert spec.parameter_count == 4 * 6 + 4 + 3 * 4 + 3
    assert hash(spec)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"input": 0}, "model.input"),
        ({"input": True}, "model.input"),
        ({"layers": []}, "model.layers"),
        ({"layers": [{"dense": 4}, {"dens": 3}]}, "model.layers[1].dens"),
        ({"layers": [{"activation": "relu"}]}, "model.layers[0].dense"),
        ({"layers": [{"dense": 4, "activation": "gelu"}, {"dense": 3}]}, "model.layers[0].activation"),
        ({"layers": [{"dense": 4.0}, {"dense": 3}]}, "model.layers[0].dense"),
        ({"layers": ["dense"]}, "model.layers[0]"),
        ({"layers": [{"dense": 3, "activation": "tanh"}]}, "model.layers[0].activation"),
        ({"layers": [{"dense": 1}]}, "model.layers[0].dense"),
        ({"input": 16384, "layers": [{"dense": 16384}]}, "model.layers"),
        ({"loss": "hinge"}, "model.loss"),
        ({"loss": ["hinge"]}, "model.loss"),
        ({"batchSize": 5000}, "model.batchSize"),
        ({"seed": -1}, "model.seed"),
        ({"optimiser": "adam"}, "model.optimiser"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_path(change, path):
    with pytest.raises(ModelSpecError) as refusal:
        parse_model_spec(GOOD | change)
    assert refusal.value.path == path
    assert str(refusal.value).startswith(f"{path}: ")


@pytest.mark.parametrize("key", ["input", "layers", "loss"])
def test_a_missing_entry_is_named(key):
    with pytest.raises(ModelSpecError, match=f"spec.model.{key}: is missing"):
        parse_model_spec({k: v for k, v in GOOD.items() if k != key}, "spec.model")


def test_a_section_that_is_no_mapping_is_refused():
    with pytest.raises(ModelSpecError, match="model: expected a mapping, found 3"):
        parse_model_spec(3)
