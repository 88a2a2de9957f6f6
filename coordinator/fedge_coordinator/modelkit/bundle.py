"""What a fleet needs to start a model: the graph and the initial weights, each with its hash."""

import hashlib
from dataclasses import dataclass

import numpy as np

from fedge_coordinator.modelkit.signatures import build_graph
from fedge_coordinator.modelkit.spec import ModelSpec


@dataclass(frozen=True)
class ModelBundle:
    """A buildable model. `weights`: little-endian float32 in the order of the graph's `get_flat`."""

    graph: bytes
    weights: bytes
    graph_sha256: bytes
    weights_sha256: bytes
    parameter_count: int


def build_bundle(spec: ModelSpec) -> ModelBundle:
    """Build graph and initial weights; same bytes for the same spec and seed."""
    graph, weights = build_graph(spec), initial_weights(spec)
    return ModelBundle(
        graph=graph,
        weights=weights,
        graph_sha256=hashlib.sha256(graph).digest(),
        weights_sha256=hashlib.sha256(weights).digest(),
        parameter_count=spec.parameter_count,
    )


def initial_weights(spec: ModelSpec) -> bytes:
    """Kernels uniform in +-sqrt(6 / (inputs + units)), biases zero, from the spec's seed (Glorot and Bengio 2010)."""
    generator = np.random.Generator(np.random.PCG64(spec.seed))
    parts = []
    for units, inputs in spec.shapes:
        limit = float(np.sqrt(6.0 / (inputs + units)))
        parts += [generator.uniform(-limit, limit, units * inputs), np.zeros(units)]
    weights: bytes = np.concatenate(parts).astype("<f4").tobytes()
    return weights
