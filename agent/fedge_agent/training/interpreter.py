"""One class over the two TensorFlow Lite runtimes, for models with Fedge's signatures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge_agent.training.failure import Reason, TrainingError

try:
    from tflite_runtime import interpreter as tflite
except ImportError:
    from ai_edge_litert import interpreter as tflite

Float32 = npt.NDArray[np.float32]
SIGNATURES = frozenset({"train", "train_prox", "infer", "evaluate", "get_flat", "set_flat", "snapshot"})


class TrainableModel:
    """A model whose weights live in the interpreter.

    `batch_size`, `input_dim`, `output_dim` and `dim` (number of parameters) come from the graph.

    Raises:
        TrainingError: `bad-graph` when the bytes are no model with Fedge's signatures.
    """

    def __init__(self, graph: bytes) -> None:
        try:
            # One thread: on tiny models a second one costs 5 to 16,000 times the CPU (spinning pool).
            self._interpreter = tflite.Interpreter(model_content=graph, num_threads=1)
            missing = SIGNATURES - set(self._interpreter.get_signature_list())
            if missing:
                raise TrainingError(Reason.BAD_GRAPH, f"signatures missing: {', '.join(sorted(missing))}")
            train = self._interpreter.get_signature_runner("train").get_input_details()
            (batch, input_dim), (_, output_dim) = (train[name]["shape"] for name in ("x", "y"))
            flat = self._interpreter.get_signature_runner("get_flat").get_output_details()["flat"]
            (dim,) = flat["shape"]
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise TrainingError(Reason.BAD_GRAPH, f"not a Fedge model: {error}") from error
        self.batch_size, self.input_dim, self.output_dim = int(batch), int(input_dim), int(output_dim)
        self.dim = int(dim)

    def weights(self) -> Float32:
        """The present weights, `(dim,)`, a copy."""
        return np.array(self._call("get_flat")["flat"], np.float32)

    def set_weights(self, weights: Float32) -> None:
        """Replace the weights by `(dim,)` float32; anchor and momentum stay until `snapshot`."""
        self._call("set_flat", flat=weights)

    def snapshot(self) -> None:
        """Make the present weights the anchor of the proximal term and zero the momentum."""
        self._call("snapshot")

    def infer(self, x: Float32) -> Float32:
        """Outputs `(n, output_dim)` of samples `(n, input_dim)`."""
        return np.asarray(self._call("infer", x=x)["out"], np.float32)

    def evaluate(self, x: Float32, y: Float32) -> tuple[float, int]:
        """Sum of the samples' losses, and the number of right answers."""
        sums = self._call("evaluate", x=x, y=y)
        return _scalar(sums["loss"]), round(_scalar(sums["correct"]))

    def stepper(
        self, *, learning_rate: float, momentum: float = 0.0, proximal_mu: float = 0.0, raw: bool = True
    ) -> Callable[[Float32, Float32, Float32], float]:
        """A function `(x, y, weight) -> loss` that does one training step.

        `x` (batch, input_dim), `y` (batch, output_dim), `weight` (batch, 1), C-contiguous float32. Plain SGD runs the
        signature `train`, anything with momentum or a proximal term `train_prox`.

        `raw` skips the signature runner's checks and copies, a third of a step on small models. It uses private names
        of the runtime (same in tflite-runtime 2.14 and ai-edge-litert 2.3); without them the runner serves.
        """
        constants = {"lr": np.float32(learning_rate)}
        if momentum or proximal_mu:
            constants |= {"mu": np.float32(proximal_mu), "momentum": np.float32(momentum)}
        runner = self._interpreter.get_signature_runner("train_prox" if len(constants) > 1 else "train")
        if raw:
            step = self._raw_step(runner, constants)
            if step is not None:
                return step

        def checked_step(x: Float32, y: Float32, weight: Float32) -> float:
            return _scalar(runner(x=x, y=y, weight=weight, **constants)["loss"])

        return checked_step

    def _raw_step(
        self, runner: Any, constants: dict[str, np.float32]
    ) -> Callable[[Float32, Float32, Float32], float] | None:
        try:
            wrapper, subgraph = runner._interpreter_wrapper, runner._subgraph_index  # noqa: SLF001 - see stepper
            inputs, loss = dict(runner._inputs), dict(runner._outputs)["loss"]  # noqa: SLF001
            set_tensor, invoke, get_tensor = wrapper.SetTensor, wrapper.Invoke, wrapper.GetTensor
            wrapper.AllocateTensors(subgraph)
            for name, constant in constants.items():
                set_tensor(inputs[name], constant, subgraph)
            x_index, y_index, weight_index = inputs["x"], inputs["y"], inputs["weight"]
        except (AttributeError, KeyError, TypeError):
            return None

        # The runtime reads the graph's bytes in place, and nothing else here keeps them alive: hence `owner`.
        def raw_step(x: Float32, y: Float32, weight: Float32, *, owner: TrainableModel = self) -> float:  # noqa: ARG001
            set_tensor(x_index, x, subgraph)
            set_tensor(y_index, y, subgraph)
            set_tensor(weight_index, weight, subgraph)
            invoke(subgraph)
            return _scalar(get_tensor(loss, subgraph))

        return raw_step

    def _call(self, signature: str, **arguments: Float32) -> dict[str, Any]:
        outputs: dict[str, Any] = self._interpreter.get_signature_runner(signature)(**arguments)
        return outputs


def _scalar(value: Any) -> float:
    """A loss as a number: the runtimes differ in returning shape () or (1,)."""
    return float(np.ravel(value)[0])
