"""Dense layers in the graph: forward, and backward from the gradient of the last layer's sums."""

from dataclasses import dataclass

from fedge_coordinator.modelkit.graph import Subgraph, Value
from fedge_coordinator.modelkit.schema import FusedActivation
from fedge_coordinator.modelkit.spec import Activation, ModelSpec


@dataclass(frozen=True)
class Forward:
    """What the backward pass needs: `activations[0]` is the input, `activations[i + 1]` what layer `i` yields."""

    kernels: tuple[Value, ...]
    activations: tuple[Value, ...]

    @property
    def output(self) -> Value:
        """What the last layer yields, `(n, units)`."""
        return self.activations[-1]


def forward(subgraph: Subgraph, spec: ModelSpec, weights: Value, x: Value) -> Forward:
    """Apply the layers to `x` (n, input_dim); `weights` is the flat vector `(parameter_count,)`."""
    kernels, activations, start = [], [x], 0
    for layer, (units, width) in zip(spec.layers, spec.shapes, strict=True):
        kernel = subgraph.reshape(subgraph.slice(weights, start, units * width), units, width)
        bias = subgraph.slice(weights, start + units * width, units)
        start += units * width + units
        fused = FusedActivation.RELU if layer.activation is Activation.RELU else FusedActivation.NONE
        y = subgraph.fully_connected(activations[-1], kernel, bias, fused)
        kernels.append(kernel)
        activations.append(subgraph.tanh(y) if layer.activation is Activation.TANH else y)
    return Forward(tuple(kernels), tuple(activations))


def backward(subgraph: Subgraph, spec: ModelSpec, passed: Forward, output_gradient: Value) -> Value:
    """Gradient of the loss in the order of the flat weights, `(parameter_count,)`.

    `output_gradient` (batch, units) is the derivative of the loss by the last layer's output.
    """
    parts: list[Value] = []
    gradient = output_gradient
    for index in reversed(range(len(spec.layers))):
        gradient = _through_activation(subgraph, spec.layers[index].activation, passed.activations[index + 1], gradient)
        kernel_gradient = subgraph.matmul(gradient, passed.activations[index], transpose_left=True)
        units, width = spec.shapes[index]
        parts = [subgraph.reshape(kernel_gradient, units * width), subgraph.sum(gradient, 0), *parts]
        if index:
            gradient = subgraph.matmul(gradient, passed.kernels[index])
    return subgraph.concatenate(parts)


def _through_activation(subgraph: Subgraph, activation: Activation, output: Value, gradient: Value) -> Value:
    """Gradient by the layer's sums, from the gradient by its output; both derivatives follow from the output alone."""
    if activation is Activation.RELU:
        return subgraph.multiply(gradient, subgraph.to_float(subgraph.greater(output, subgraph.scalar(0.0))))
    if activation is Activation.TANH:
        return subgraph.subtract(gradient, subgraph.multiply(gradient, subgraph.multiply(output, output)))
    return gradient
