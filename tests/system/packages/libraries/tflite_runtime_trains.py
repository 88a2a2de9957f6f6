"""tflite-runtime: a hundred steps of training a model of the model kit, under the unit's filters."""

from pathlib import Path

import numpy as np
import tflite_runtime
from tflite_runtime.interpreter import Interpreter

assert str(tflite_runtime.__file__).startswith("/usr/lib/fedge/")
interpreter = Interpreter(model_content=Path("/srv/probe/graph.tflite").read_bytes(), num_threads=1)
train = interpreter.get_signature_runner("train")
weights = np.frombuffer(Path("/srv/probe/weights.bin").read_bytes(), "<f4")
interpreter.get_signature_runner("set_flat")(flat=weights)
assert np.array_equal(interpreter.get_signature_runner("get_flat")()["flat"], weights)
shapes = {name: tuple(found["shape"]) for name, found in train.get_input_details().items()}
random = np.random.default_rng(1)
x = random.standard_normal(shapes["x"]).astype(np.float32)
y = np.eye(shapes["y"][1], dtype=np.float32)[np.argmax(x[:, : shapes["y"][1]], axis=1)]
weight = np.ones(shapes["weight"], np.float32)
losses = [float(train(x=x, y=y, weight=weight, lr=np.float32(0.05))["loss"]) for _ in range(100)]
assert losses[-1] < losses[0] / 10, losses
