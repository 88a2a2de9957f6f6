"""Serialise a graph as a TensorFlow Lite flatbuffer. Slot numbers are those of `schema.fbs`, in its order."""

from collections.abc import Sequence

import flatbuffers
import numpy as np

from fedge_coordinator.modelkit.graph import Graph, OperatorRecord, Subgraph, TensorRecord, Value
from fedge_coordinator.modelkit.schema import FILE_IDENTIFIER, SCHEMA_VERSION, FieldKind, Op, OptionField

_DEPRECATED_CODE_LIMIT = 127
_BUFFER_ALIGNMENT = 16
_INITIAL_BYTES = 1 << 14


def serialise(graph: Graph, description: str) -> bytes:
    """The bytes of a `.tflite` file; equal graphs give equal bytes."""
    writer = _Writer()
    codes = list(dict.fromkeys(record.op for subgraph in graph.subgraphs for record in subgraph.operators))
    return writer.model(graph, codes, description)


class _Writer:
    """Children are written before their parents, as flatbuffers are built from the end."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(_INITIAL_BYTES)

    def model(self, graph: Graph, codes: list[Op], description: str) -> bytes:
        operator_codes = self._offsets([self._operator_code(op) for op in codes])
        subgraphs = self._offsets([self._subgraph(subgraph, codes) for subgraph in graph.subgraphs])
        buffers = self._offsets([self._buffer(content) for content in graph.buffers])
        signatures = self._offsets([self._signature(key, subgraph) for key, subgraph in graph.signatures])
        text = self._builder.CreateString(description)
        self._builder.StartObject(8)
        self._builder.PrependUint32Slot(0, SCHEMA_VERSION, 0)
        for slot, offset in ((1, operator_codes), (2, subgraphs), (3, text), (4, buffers), (7, signatures)):
            self._builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        self._builder.Finish(self._builder.EndObject(), file_identifier=FILE_IDENTIFIER)
        return bytes(self._builder.Output())

    def _operator_code(self, op: Op) -> int:
        self._builder.StartObject(4)
        self._builder.PrependInt8Slot(0, min(op.code, _DEPRECATED_CODE_LIMIT), 0)
        self._builder.PrependInt32Slot(2, 1, 0)
        self._builder.PrependInt32Slot(3, op.code, 0)
        return self._end()

    def _subgraph(self, subgraph: Subgraph, codes: list[Op]) -> int:
        tensors = self._offsets([self._tensor(record) for record in subgraph.tensors])
        operators = self._offsets([self._operator(record, codes) for record in subgraph.operators])
        inputs = self._int32([value.index for _, value in subgraph.inputs])
        outputs = self._int32([value.index for _, value in subgraph.outputs])
        name = self._builder.CreateString(subgraph.name)
        self._builder.StartObject(5)
        for slot, offset in enumerate((tensors, inputs, outputs, operators, name)):
            self._builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return self._end()

    def _tensor(self, record: TensorRecord) -> int:
        value = record.value
        name = self._builder.CreateString(record.name)
        shape = self._int32(value.shape)
        signature = self._int32((-1, *value.shape[1:])) if value.dynamic else 0
        self._builder.StartObject(9)
        self._builder.PrependUOffsetTRelativeSlot(0, shape, 0)
        self._builder.PrependInt8Slot(1, value.element, 0)
        self._builder.PrependUint32Slot(2, record.buffer, 0)
        self._builder.PrependUOffsetTRelativeSlot(3, name, 0)
        self._builder.PrependUOffsetTRelativeSlot(7, signature, 0)
        self._builder.PrependBoolSlot(8, True, False)  # noqa: FBT003 - positional API: has_rank, default
        return self._end()

    def _operator(self, record: OperatorRecord, codes: list[Op]) -> int:
        inputs, outputs = self._int32(record.inputs), self._int32(record.outputs)
        options = self._options(record.options) if record.op.options_id else 0
        self._builder.StartObject(5)
        self._builder.PrependUint32Slot(0, codes.index(record.op), 0)
        self._builder.PrependUOffsetTRelativeSlot(1, inputs, 0)
        self._builder.PrependUOffsetTRelativeSlot(2, outputs, 0)
        self._builder.PrependUint8Slot(3, record.op.options_id, 0)
        self._builder.PrependUOffsetTRelativeSlot(4, options, 0)
        return self._end()

    def _options(self, fields: tuple[OptionField, ...]) -> int:
        strings = {
            field.slot: self._builder.CreateString(field.value) for field in fields if field.kind is FieldKind.STRING
        }
        self._builder.StartObject(max((field.slot + 1 for field in fields), default=0))
        for field in fields:
            match field.kind:
                case FieldKind.STRING:
                    self._builder.PrependUOffsetTRelativeSlot(field.slot, strings[field.slot], 0)
                case FieldKind.BOOL:
                    self._builder.PrependBoolSlot(field.slot, field.value, 0)
                case FieldKind.INT8:
                    self._builder.PrependInt8Slot(field.slot, field.value, 0)
                case FieldKind.INT32:
                    self._builder.PrependInt32Slot(field.slot, field.value, 0)
                case FieldKind.FLOAT32:
                    self._builder.PrependFloat32Slot(field.slot, field.value, 0.0)
        return self._end()

    def _buffer(self, content: bytes) -> int:
        data = 0
        if content:
            self._builder.StartVector(1, len(content), _BUFFER_ALIGNMENT)
            self._builder.head -= len(content)
            self._builder.Bytes[self._builder.head : self._builder.head + len(content)] = content
            data = self._builder.EndVector()
        self._builder.StartObject(1)
        self._builder.PrependUOffsetTRelativeSlot(0, data, 0)
        return self._end()

    def _signature(self, key: str, subgraph: Subgraph) -> int:
        inputs, outputs = self._tensor_map(subgraph.inputs), self._tensor_map(subgraph.outputs)
        name = self._builder.CreateString(key)
        self._builder.StartObject(5)
        for slot, offset in enumerate((inputs, outputs, name)):
            self._builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        self._builder.PrependUint32Slot(4, subgraph.index, 0)
        return self._end()

    def _tensor_map(self, entries: list[tuple[str, Value]]) -> int:
        offsets = []
        for name, value in entries:
            text = self._builder.CreateString(name)
            self._builder.StartObject(2)
            self._builder.PrependUOffsetTRelativeSlot(0, text, 0)
            self._builder.PrependUint32Slot(1, value.index, 0)
            offsets.append(self._end())
        return self._offsets(offsets)

    def _int32(self, numbers: Sequence[int]) -> int:
        if not numbers:
            self._builder.StartVector(4, 0, 4)
            return int(self._builder.EndVector())
        return int(self._builder.CreateNumpyVector(np.asarray(numbers, np.int32)))

    def _offsets(self, offsets: list[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _end(self) -> int:
        return int(self._builder.EndObject())
