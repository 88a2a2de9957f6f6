"""Random values of message types, within the bounds that the types declare."""

import enum
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

_Strategy = st.SearchStrategy[Any]


def values_of(kind: type[msgspec.Struct]) -> _Strategy:
    """Instances of a struct whose fields are numbers, text, bytes, booleans, enums, tuples and structs."""
    return _of(inspect.type_info(kind))


def _of(info: inspect.Type) -> _Strategy:
    return _MAKERS[type(info)](info)


def _struct(info: Any) -> _Strategy:
    return st.builds(info.cls, **{field.name: _of(field.type) for field in info.fields})


def _integer(info: Any) -> _Strategy:
    least = info.ge if info.ge is not None else -(2**63) if info.gt is None else info.gt + 1
    most = info.le if info.le is not None else 2**64 - 1 if info.lt is None else info.lt - 1
    return st.integers(least, most)


def _number(info: Any) -> _Strategy:
    least, most = (info.ge, info.gt), (info.le, info.lt)
    return st.floats(
        min_value=least[0] if least[0] is not None else least[1],
        max_value=most[0] if most[0] is not None else most[1],
        exclude_min=least[0] is None and least[1] is not None,
        exclude_max=most[0] is None and most[1] is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _text(info: Any) -> _Strategy:
    if info.pattern is not None and info.max_length is None:
        return st.from_regex(info.pattern)
    printable = st.characters(exclude_categories=("Cs", "Cc"))
    return st.text(printable, min_size=info.min_length or 0, max_size=info.max_length)


def _bytes(info: Any) -> _Strategy:
    least = info.min_length or 0
    return st.binary(min_size=least, max_size=max(least, min(info.max_length or 300, 300)))


def _sequence(info: Any) -> _Strategy:
    least = info.min_length or 0
    return st.lists(_of(info.item_type), min_size=least, max_size=max(least, 3)).map(tuple)


_MAKERS: dict[type, Callable[[Any], _Strategy]] = {
    inspect.StructType: _struct,
    inspect.IntType: _integer,
    inspect.FloatType: _number,
    inspect.StrType: _text,
    inspect.BytesType: _bytes,
    inspect.BoolType: lambda _: st.booleans(),
    inspect.EnumType: lambda info: st.sampled_from(list[enum.Enum](info.cls)),
    inspect.VarTupleType: _sequence,
    inspect.TupleType: lambda info: st.tuples(*(_of(item) for item in info.item_types)),
}
