"""A TensorFlow Lite graph under construction: subgraphs, tensors, operators, variables and signatures."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedge_coordinator.modelkit.schema import ElementType, FieldKind, FusedActivation, Op, OptionField


@dataclass(frozen=True)
class Value:
    """A tensor of one subgraph. `dynamic` says that its first dimension follows the caller's batch."""

    index: int
    shape: tuple[int, ...]
    element: ElementType = ElementType.FLOAT32
    dynamic: bool = False


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as the file stores it; `buffer` 0 means no constant content."""

    name: str
    value: Value
    buffer: int


@dataclass(frozen=True)
class OperatorRecord:
    """An operator as the file stores it: tensor indices in and out, and its option table."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[OptionField, ...]


@dataclass
class Graph:
    """A whole model. Order and names depend on the calls alone, so that equal calls give equal bytes."""

    subgraphs: list["Subgraph"] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    signatures: list[tuple[str, "Subgraph"]] = field(default_factory=list)

    def subgraph(self, name: str) -> "Subgraph":
        """Append an empty subgraph."""
        subgraph = Subgraph(self, name, len(self.subgraphs))
        self.subgraphs.append(subgraph)
        return subgraph

    def signature(self, key: str) -> "Subgraph":
        """Append an empty subgraph that callers reach by the name `key`."""
        subgraph = self.subgraph(key)
        self.signatures.append((key, subgraph))
        return subgraph

    def buffer(self, content: bytes) -> int:
        """Index of the buffer with this content; equal contents share one buffer."""
        if content in self.buffers[1:]:
            return self.buffers.index(content, 1)
        self.buffers.append(content)
        return len(self.buffers) - 1


class Subgraph:
    """One callable graph. Every method that names an operator appends it and returns its output.

    Shapes are the caller's business where the operator broadcasts: the result takes the shape of the first operand.
    """

    def __init__(self, graph: Graph, name: str, index: int) -> None:
        self._graph = graph
        self.name = name
        self.index = index
        self.tensors: list[TensorRecord] = []
        self.operators: list[OperatorRecord] = []
        self.inputs: list[tuple[str, Value]] = []
        self.outputs: list[tuple[str, Value]] = []
        self._handles: dict[str, Value] = {}

    def input(self, name: str, shape: tuple[int, ...], *, dynamic: bool = False) -> Value:
        """A float32 argument of the signature."""
        value = self._tensor(shape, dynamic=dynamic, name=f"{self.name}_{name}")
        self.inputs.append((name, value))
        return value

    def output(self, name: str, value: Value) -> None:
        """Return `value` under `name`."""
        self.outputs.append((name, value))

    def constant(self, array: npt.NDArray[np.float32] | npt.NDArray[np.int32]) -> Value:
        """A constant float32 or int32 tensor."""
        element = ElementType.INT32 if array.dtype == np.int32 else ElementType.FLOAT32
        little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        return self._tensor(array.shape, element, buffer=self._graph.buffer(little_endian.tobytes()))

    def scalar(self, number: float) -> Value:
        """A constant float32 scalar."""
        return self.constant(np.array(number, np.float32))

    def integers(self, *numbers: int) -> Value:
        """A constant int32 vector."""
        return self.constant(np.array(numbers, np.int32))

    def call_once(self, subgraph: "Subgraph") -> None:
        """Run `subgraph` the first time that this one is invoked in an interpreter."""
        self._append(Op.CALL_ONCE, (), (), OptionField(0, FieldKind.INT32, subgraph.index))

    def read(self, variable: str, dim: int) -> Value:
        """Content of the flat float32 variable, `(dim,)`."""
        return self._emit(Op.READ_VARIABLE, (self._handle(variable),), (dim,))

    def assign(self, variable: str, value: Value) -> None:
        """Replace the content of the variable."""
        self._append(Op.ASSIGN_VARIABLE, (self._handle(variable), value), ())

    def fill(self, dim: int, number: float) -> Value:
        """A vector of `dim` equal float32 numbers, made at run time so that the file stays small."""
        return self._emit(Op.FILL, (self.integers(dim), self.scalar(number)), (dim,))

    def add(self, left: Value, right: Value) -> Value:
        """`left + right`."""
        return self._binary(Op.ADD, left, right)

    def subtract(self, left: Value, right: Value) -> Value:
        """`left - right`."""
        return self._binary(Op.SUB, left, right)

    def multiply(self, left: Value, right: Value) -> Value:
        """`left * right`."""
        return self._binary(Op.MUL, left, right)

    def squared_difference(self, left: Value, right: Value) -> Value:
        """`(left - right)**2`."""
        return self._binary(Op.SQUARED_DIFFERENCE, left, right)

    def greater(self, left: Value, right: Value) -> Value:
        """`left > right` as bool."""
        return self._emit(Op.GREATER, (left, right), left.shape, ElementType.BOOL, dynamic=left.dynamic)

    def equal(self, left: Value, right: Value) -> Value:
        """`left == right` as bool."""
        return self._emit(Op.EQUAL, (left, right), left.shape, ElementType.BOOL, dynamic=left.dynamic)

    def to_float(self, value: Value) -> Value:
        """Bool as 0.0 or 1.0."""
        options = (
            OptionField(0, FieldKind.INT8, value.element),
            OptionField(1, FieldKind.INT8, ElementType.FLOAT32),
        )
        return self._emit(Op.CAST, (value,), value.shape, ElementType.FLOAT32, *options, dynamic=value.dynamic)

    def tanh(self, value: Value) -> Value:
        """Elementwise hyperbolic tangent."""
        return self._unary(Op.TANH, value)

    def softmax(self, value: Value) -> Value:
        """Softmax over the last axis."""
        return self._unary(Op.SOFTMAX, value, OptionField(0, FieldKind.FLOAT32, 1.0))

    def log_softmax(self, value: Value) -> Value:
        """Logarithm of the softmax over the last axis."""
        return self._unary(Op.LOG_SOFTMAX, value)

    def argmax(self, value: Value) -> Value:
        """Index of the greatest element over the last axis, int32 `(n,)`."""
        option = OptionField(0, FieldKind.INT8, ElementType.INT32)
        axis = self.integers(len(value.shape) - 1)
        shape = value.shape[:-1]
        return self._emit(Op.ARG_MAX, (value, axis), shape, ElementType.INT32, option, dynamic=value.dynamic)

    def sum(self, value: Value, *axes: int) -> Value:
        """Sum over `axes`."""
        return self._reduce(Op.SUM, value, axes)

    def reshape(self, value: Value, *shape: int) -> Value:
        """Same content, other static shape."""
        return self._emit(Op.RESHAPE, (value, self.integers(*shape)), shape)

    def slice(self, vector: Value, start: int, length: int) -> Value:
        """`vector[start:start + length]`."""
        return self._emit(Op.SLICE, (vector, self.integers(start), self.integers(length)), (length,))

    def concatenate(self, vectors: list[Value]) -> Value:
        """Vectors end to end."""
        shape = (sum(vector.shape[0] for vector in vectors),)
        return self._emit(Op.CONCATENATION, tuple(vectors), shape)

    def fully_connected(self, x: Value, kernel: Value, bias: Value, fused: FusedActivation) -> Value:
        """`activation(x @ kernel.T + bias)`: x (n, d), kernel (units, d), bias (units,)."""
        shape = (x.shape[0], kernel.shape[0])
        option = OptionField(0, FieldKind.INT8, fused)
        return self._emit(Op.FULLY_CONNECTED, (x, kernel, bias), shape, ElementType.FLOAT32, option, dynamic=x.dynamic)

    def matmul(self, left: Value, right: Value, *, transpose_left: bool = False) -> Value:
        """`left @ right` of two matrices."""
        rows = left.shape[1] if transpose_left else left.shape[0]
        option = OptionField(0, FieldKind.BOOL, transpose_left)
        return self._emit(Op.BATCH_MATMUL, (left, right), (rows, right.shape[1]), ElementType.FLOAT32, option)

    def _handle(self, variable: str) -> Value:
        if variable not in self._handles:
            name = OptionField(1, FieldKind.STRING, variable)
            self._handles[variable] = self._emit(Op.VAR_HANDLE, (), (), ElementType.RESOURCE, name)
        return self._handles[variable]

    def _unary(self, op: Op, value: Value, *options: OptionField) -> Value:
        return self._emit(op, (value,), value.shape, ElementType.FLOAT32, *options, dynamic=value.dynamic)

    def _binary(self, op: Op, left: Value, right: Value) -> Value:
        return self._emit(op, (left, right), left.shape, dynamic=left.dynamic)

    def _reduce(self, op: Op, value: Value, axes: tuple[int, ...]) -> Value:
        shape = tuple(size for axis, size in enumerate(value.shape) if axis not in axes)
        dynamic = value.dynamic and 0 not in axes
        return self._emit(op, (value, self.integers(*axes)), shape, dynamic=dynamic)

    def _emit(
        self,
        op: Op,
        inputs: tuple[Value, ...],
        shape: tuple[int, ...],
        element: ElementType = ElementType.FLOAT32,
        *options: OptionField,
        dynamic: bool = False,
    ) -> Value:
        output = self._tensor(shape, element, dynamic=dynamic)
        self._append(op, inputs, (output,), *options)
        return output

    def _append(self, op: Op, inputs: tuple[Value, ...], outputs: tuple[Value, ...], *options: OptionField) -> None:
        into, out = tuple(value.index for value in inputs), tuple(value.index for value in outputs)
        self.operators.append(OperatorRecord(op, into, out, options))

    def _tensor(
        self,
        shape: tuple[int, ...],
        element: ElementType = ElementType.FLOAT32,
        *,
        buffer: int = 0,
        dynamic: bool = False,
        name: str = "",
    ) -> Value:
        value = Value(len(self.tensors), tuple(shape), element, dynamic)
        self.tensors.append(TensorRecord(name or f"{self.name}_{value.index}", value, buffer))
        return value
