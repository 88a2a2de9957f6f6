"""The `model:` section of a training job as a checked value."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)

MAX_LAYERS = 32
MAX_UNITS = 16_384
MAX_BATCH = 4_096
MAX_PARAMETERS = 4_194_304  # 16 MiB of float32: the largest model that travels over MQTT


class ModelSpecError(ValueError):
    """A model section that cannot be built. `path` names the entry at fault, e.g. `model.layers[1].dense`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class Activation(StrEnum):
    """What a layer applies to its sums."""

    LINEAR = "linear"
    RELU = "relu"
    TANH = "tanh"


class Loss(StrEnum):
    """What training minimises, averaged over the samples of a batch.

    `MEAN_SQUARED_ERROR` is averaged over the outputs of a sample as well.
    """

    CROSS_ENTROPY = "softmax-cross-entropy"
    MEAN_SQUARED_ERROR = "mean-squared-error"


@dataclass(frozen=True)
class DenseLayer:
    """A fully connected layer."""

    units: int
    activation: Activation


@dataclass(frozen=True)
class ModelSpec:
    """A network of dense layers with its loss.

    `input_dim` features a sample; `batch_size` samples a training step, fixed in the graph; `seed` of the initial
    weights. With the cross-entropy loss the last layer yields logits and `infer` applies the softmax.
    """

    input_dim: int
    layers: tuple[DenseLayer, ...]
    loss: Loss
    batch_size: int = 16
    seed: int = 0

    @property
    def output_dim(self) -> int:
        """Units of the last layer."""
        return self.layers[-1].units

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Kernel shape `(units, inputs)` of every layer."""
        inputs = (self.input_dim, *(layer.units for layer in self.layers))
        return tuple((layer.units, width) for layer, width in zip(self.layers, inputs, strict=False))

    @property
    def parameter_count(self) -> int:
        """Length of the flat weights: per layer the kernel (units, inputs) row by row, then the bias (units,)."""
        return sum(units * inputs + units for units, inputs in self.shapes)


def parse_model_spec(section: object, path: str = "model") -> ModelSpec:
    """Check the `model:` section of a job document.

    Example: `{"input": 64, "layers": [{"dense": 32, "activation": "relu"}, {"dense": 10}],
    "loss": "softmax-cross-entropy", "batchSize": 16, "seed": 1}`; activation, batchSize and seed may be left out.

    Raises:
        ModelSpecError: with the path of the entry at fault.
    """
    fields = _mapping(section, path, required=("input", "layers", "loss"), optional=("batchSize", "seed"))
    entries = fields["layers"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_LAYERS:
        raise ModelSpecError(f"{path}.layers", f"expected a list of 1 to {MAX_LAYERS} layers, found {entries!r}")
    layers = tuple(_layer(entry, f"{path}.layers[{index}]") for index, entry in enumerate(entries))
    spec = ModelSpec(
        input_dim=_integer(fields["input"], f"{path}.input", 1, MAX_UNITS),
        layers=layers,
        loss=_choice(Loss, fields["loss"], f"{path}.loss"),
        batch_size=_integer(fields.get("batchSize", 16), f"{path}.batchSize", 1, MAX_BATCH),
        seed=_integer(fields.get("seed", 0), f"{path}.seed", 0, 2**32 - 1),
    )
    last = f"{path}.layers[{len(layers) - 1}]"
    if spec.loss is Loss.CROSS_ENTROPY and layers[-1].activation is not Activation.LINEAR:
        raise ModelSpecError(f"{last}.activation", f"{spec.loss} takes logits: leave the last layer linear")
    if spec.loss is Loss.CROSS_ENTROPY and layers[-1].units == 1:
        raise ModelSpecError(f"{last}.dense", f"{spec.loss} needs at least 2 classes, found 1")
    if spec.parameter_count > MAX_PARAMETERS:
        raise ModelSpecError(f"{path}.layers", f"{spec.parameter_count} parameters, at most {MAX_PARAMETERS}")
    return spec


def _layer(entry: object, path: str) -> DenseLayer:
    fields = _mapping(entry, path, required=("dense",), optional=("activation",))
    units = _integer(fields["dense"], f"{path}.dense", 1, MAX_UNITS)
    return DenseLayer(units, _choice(Activation, fields.get("activation", "linear"), f"{path}.activation"))


def _mapping(
    section: object, path: str, *, required: tuple[str, ...], optional: tuple[str, ...]
) -> Mapping[str, object]:
    if not isinstance(section, Mapping):
        raise ModelSpecError(path, f"expected a mapping, found {section!r}")
    for key in section:
        if key not in (*required, *optional):
            raise ModelSpecError(f"{path}.{key}", f"unknown key; known are {', '.join((*required, *optional))}")
    for key in required:
        if key not in section:
            raise ModelSpecError(f"{path}.{key}", "is missing")
    return section


def _integer(value: object, path: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelSpecError(path, f"expected an integer from {low} to {high}, found {value!r}")
    return value


def _choice(kind: type[ChoiceT], value: object, path: str) -> ChoiceT:
    if not isinstance(value, str) or value not in {member.value for member in kind}:
        raise ModelSpecError(path, f"expected one of {', '.join(kind)}, found {value!r}")
    return kind(value)
