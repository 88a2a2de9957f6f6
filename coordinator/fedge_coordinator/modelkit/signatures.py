"""The signatures that every Fedge model has.

The whole state of a model is three flat variables of `parameter_count` float32: `weights`, `anchor` (the weights
that the proximal term pulls towards) and `momentum`. All start at zero; a caller sets the weights first.

| signature | arguments | result |
| --- | --- | --- |
| `train` | x (batch, d), y (batch, c), weight (batch, 1), lr () | loss; plain SGD: `w -= lr * g` |
| `train_prox` | as `train`, mu (), momentum () | loss; `v = momentum*v + g + mu*(w - anchor)`; `w -= lr * v` |
| `infer` | x (n, d) | out (n, c): probabilities with the cross-entropy loss |
| `evaluate` | x (n, d), y (n, c) | loss: sum over samples; correct: count |
| `get_flat` | | flat (parameter_count,) |
| `set_flat` | flat | ok |
| `snapshot` | | ok; `anchor = weights`, `momentum = 0` |

`train_prox` with mu = momentum = 0 yields the bits of `train` and costs more, so the rule is: `train` exactly when
both are zero. FedProx: Li et al. 2020, equation 2; momentum in the form that multiplies the rate last, as PyTorch.
"""

from fedge_coordinator.modelkit.flatbuffer import serialise
from fedge_coordinator.modelkit.graph import Graph, Subgraph, Value
from fedge_coordinator.modelkit.losses import evaluation_sums, training_loss
from fedge_coordinator.modelkit.network import backward, forward
from fedge_coordinator.modelkit.spec import Loss, ModelSpec


def build_graph(spec: ModelSpec) -> bytes:
    """The `.tflite` file of a model: built-in operators only, same bytes for the same spec (the seed has no part)."""
    graph = Graph()
    _train(graph.signature("train"), spec)
    _train_prox(graph.signature("train_prox"), spec)
    _infer(graph.signature("infer"), spec)
    _evaluate(graph.signature("evaluate"), spec)
    _get_flat(graph.signature("get_flat"), spec)
    _set_flat(graph.signature("set_flat"), spec)
    _snapshot(graph.signature("snapshot"), spec)
    _initialise_first(graph, spec)
    return serialise(graph, "fedge")


def _gradient(subgraph: Subgraph, spec: ModelSpec, weights: Value) -> Value:
    x = subgraph.input("x", (spec.batch_size, spec.input_dim))
    y = subgraph.input("y", (spec.batch_size, spec.output_dim))
    weight = subgraph.input("weight", (spec.batch_size, 1))
    passed = forward(subgraph, spec, weights, x)
    loss, output_gradient = training_loss(subgraph, spec, passed.output, y, weight)
    subgraph.output("loss", loss)
    return backward(subgraph, spec, passed, output_gradient)


def _train(subgraph: Subgraph, spec: ModelSpec) -> None:
    weights = subgraph.read("weights", spec.parameter_count)
    gradient = _gradient(subgraph, spec, weights)
    rate = subgraph.input("lr", ())
    subgraph.assign("weights", subgraph.subtract(weights, subgraph.multiply(gradient, rate)))


def _train_prox(subgraph: Subgraph, spec: ModelSpec) -> None:
    weights = subgraph.read("weights", spec.parameter_count)
    gradient = _gradient(subgraph, spec, weights)
    rate, mu, momentum = (subgraph.input(name, ()) for name in ("lr", "mu", "momentum"))
    drift = subgraph.subtract(weights, subgraph.read("anchor", spec.parameter_count))
    velocity = subgraph.multiply(subgraph.read("momentum", spec.parameter_count), momentum)
    velocity = subgraph.add(subgraph.add(velocity, gradient), subgraph.multiply(drift, mu))
    subgraph.assign("momentum", velocity)
    subgraph.assign("weights", subgraph.subtract(weights, subgraph.multiply(velocity, rate)))


def _infer(subgraph: Subgraph, spec: ModelSpec) -> None:
    x = subgraph.input("x", (1, spec.input_dim), dynamic=True)
    out = forward(subgraph, spec, subgraph.read("weights", spec.parameter_count), x).output
    subgraph.output("out", subgraph.softmax(out) if spec.loss is Loss.CROSS_ENTROPY else out)


def _evaluate(subgraph: Subgraph, spec: ModelSpec) -> None:
    x = subgraph.input("x", (1, spec.input_dim), dynamic=True)
    y = subgraph.input("y", (1, spec.output_dim), dynamic=True)
    passed = forward(subgraph, spec, subgraph.read("weights", spec.parameter_count), x)
    loss, correct = evaluation_sums(subgraph, spec, passed.output, y)
    subgraph.output("loss", loss)
    subgraph.output("correct", correct)


def _get_flat(subgraph: Subgraph, spec: ModelSpec) -> None:
    subgraph.output("flat", subgraph.read("weights", spec.parameter_count))


def _set_flat(subgraph: Subgraph, spec: ModelSpec) -> None:
    subgraph.assign("weights", subgraph.input("flat", (spec.parameter_count,)))
    subgraph.output("ok", subgraph.scalar(1.0))


def _snapshot(subgraph: Subgraph, spec: ModelSpec) -> None:
    subgraph.assign("anchor", subgraph.read("weights", spec.parameter_count))
    subgraph.assign("momentum", subgraph.fill(spec.parameter_count, 0.0))
    subgraph.output("ok", subgraph.scalar(1.0))


def _initialise_first(graph: Graph, spec: ModelSpec) -> None:
    """Zero every variable before the first call of whichever signature comes first."""
    initialise = graph.subgraph("initialise")
    for variable in ("weights", "anchor", "momentum"):
        initialise.assign(variable, initialise.fill(spec.parameter_count, 0.0))
    for _, subgraph in graph.signatures:
        subgraph.call_once(initialise)
        subgraph.operators.insert(0, subgraph.operators.pop())
