"""The part of the TensorFlow Lite file format that trainable graphs need.

Source: `tensorflow/compiler/mlir/lite/schema/schema.fbs`, version 3. Its enums are append-only, and every number here
was compared with the bindings published as `tflite` 2.18.0.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"


class ElementType(IntEnum):
    """`TensorType` of the schema."""

    FLOAT32 = 0
    INT32 = 2
    BOOL = 6
    RESOURCE = 13


class FusedActivation(IntEnum):
    """`ActivationFunctionType` of the schema: what FULLY_CONNECTED can apply itself."""

    NONE = 0
    RELU = 1


class Op(Enum):
    """A built-in operator: its `BuiltinOperator` number and the `BuiltinOptions` union member (0: no options)."""

    ADD = (0, 11)
    CONCATENATION = (2, 10)
    FULLY_CONNECTED = (9, 8)
    MUL = (18, 21)
    RESHAPE = (22, 17)
    SOFTMAX = (25, 9)
    TANH = (28, 0)
    SUB = (41, 28)
    LOG_SOFTMAX = (50, 36)
    CAST = (53, 37)
    ARG_MAX = (56, 40)
    GREATER = (61, 44)
    SLICE = (65, 48)
    EQUAL = (71, 53)
    SUM = (74, 27)
    FILL = (94, 68)
    SQUARED_DIFFERENCE = (99, 76)
    BATCH_MATMUL = (126, 101)
    CALL_ONCE = (129, 103)
    VAR_HANDLE = (142, 111)
    READ_VARIABLE = (143, 112)
    ASSIGN_VARIABLE = (144, 113)

    @property
    def code(self) -> int:
        """`BuiltinOperator` number."""
        return self.value[0]

    @property
    def options_id(self) -> int:
        """`BuiltinOptions` union member."""
        return self.value[1]


class FieldKind(Enum):
    """Scalar types that occur in option tables."""

    BOOL = "bool"
    INT8 = "int8"
    INT32 = "int32"
    FLOAT32 = "float32"
    STRING = "string"


@dataclass(frozen=True)
class OptionField:
    """One field of an operator's option table: slot number in schema order, type and value."""

    slot: int
    kind: FieldKind
    value: int | float | str
