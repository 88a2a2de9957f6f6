"""The losses in the graph: value and gradient of a weighted training batch, and the sums that evaluation returns."""

from fedge_coordinator.modelkit.graph import Subgraph, Value
from fedge_coordinator.modelkit.spec import Loss, ModelSpec


def training_loss(subgraph: Subgraph, spec: ModelSpec, output: Value, y: Value, weight: Value) -> tuple[Value, Value]:
    """Loss `sum_i weight_i * loss_i`, a scalar, and its gradient by `output` (batch, units).

    `weight` (batch, 1): 1/n for each of the n real rows of a batch, 0 for the rows that fill it up.
    """
    if spec.loss is Loss.CROSS_ENTROPY:
        weighted = subgraph.multiply(y, weight)
        loss = subgraph.sum(subgraph.multiply(weighted, subgraph.log_softmax(output)), 0, 1)
        gradient = subgraph.multiply(subgraph.subtract(subgraph.softmax(output), y), weight)
        return subgraph.multiply(loss, subgraph.scalar(-1.0)), gradient
    error = subgraph.subtract(output, y)
    weighted = subgraph.multiply(error, subgraph.multiply(weight, subgraph.scalar(1.0 / spec.output_dim)))
    loss = subgraph.sum(subgraph.multiply(error, weighted), 0, 1)
    return loss, subgraph.multiply(weighted, subgraph.scalar(2.0))


def evaluation_sums(subgraph: Subgraph, spec: ModelSpec, output: Value, y: Value) -> tuple[Value, Value]:
    """Sum of the samples' losses and number of right answers, both scalars; nothing counts as right without classes."""
    if spec.loss is Loss.CROSS_ENTROPY:
        likelihood = subgraph.sum(subgraph.multiply(y, subgraph.log_softmax(output)), 0, 1)
        right = subgraph.to_float(subgraph.equal(subgraph.argmax(output), subgraph.argmax(y)))
        return subgraph.multiply(likelihood, subgraph.scalar(-1.0)), subgraph.sum(right, 0)
    total = subgraph.sum(subgraph.squared_difference(output, y), 0, 1)
    return subgraph.multiply(total, subgraph.scalar(1.0 / spec.output_dim)), subgraph.scalar(0.0)
