"""The interpreter loads, and judges what it is given; a round in this suite trains with it."""

from tflite_runtime.interpreter import Interpreter

said = ""
try:
    Interpreter(model_content=b"no model at all, but long enough to be looked at")
except ValueError as error:
    said = str(error)
assert "odel" in said
