"""Every fault of a plain document (JSON or YAML data) against a msgspec type, each with its path.

msgspec itself stops at the first fault; a person who edits a document wants all of them.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from msgspec import inspect

Path: TypeAlias = tuple[str | int, ...]

MAX_DEPTH: Final = 8
MAX_NODES: Final = 4096
MAX_TEXT: Final = 1024
MAX_INTEGER: Final = 2**63 - 1
_SHOWN: Final = 60
_KINDS: Final = {dict: "a mapping", list: "a list", bool: "a boolean", type(None): "nothing"}


@dataclass(frozen=True)
class Fault:
    """One thing wrong at one place."""

    path: Path
    message: str

    def __str__(self) -> str:
        """`spec.training.epochs: expected ...`."""
        return f"{path_text(self.path)}: {self.message}"


def path_text(path: Path) -> str:
    """`("spec", "layers", 0)` as `spec.layers[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "document"


def path_of(text: str) -> Path:
    """`spec.layers[0]` as `("spec", "layers", 0)`."""
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", text)
    return tuple(int(index) if index else name for index, name in parts)


def plain_faults(value: object) -> list[Fault]:
    """What keeps a value from being bounded JSON: depth, size, foreign types, non-finite numbers. At most one fault."""
    nodes = 0
    pending: list[tuple[Path, object]] = [((), value)]
    while pending:
        path, node = pending.pop()
        nodes += 1
        if nodes > MAX_NODES:
            return [Fault((), f"more than {MAX_NODES} values")]
        message = _plain_fault(node, len(path))
        if message:
            return [Fault(path, message)]
        if isinstance(node, dict):
            pending.extend(((*path, key), child) for key, child in node.items())
        elif isinstance(node, list):
            pending.extend(((*path, index), child) for index, child in enumerate(node))
    return []


def faults(value: object, kind: type) -> list[Fault]:
    """All faults of plain data against a type of structs, lists, scalars and unions with None; in document order."""
    return plain_faults(value) or list(_faults(value, inspect.type_info(kind), ()))


def _plain_fault(node: object, depth: int) -> str:  # noqa: PLR0911 - one return a type
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} levels deep"
    if isinstance(node, dict):
        strange = [key for key in node if not isinstance(key, str)]
        if strange:
            return f"expected text as key, got {_show(strange[0])}; put it in quotes"
        long = [key for key in node if len(key) > MAX_TEXT]
        return f"key of more than {MAX_TEXT} characters" if long else ""
    if isinstance(node, str):
        return f"text of more than {MAX_TEXT} characters" if len(node) > MAX_TEXT else _encoding_fault(node)
    if isinstance(node, float):
        return "" if math.isfinite(node) else f"expected a finite number, got {node}"
    if isinstance(node, int):
        return "" if abs(node) <= MAX_INTEGER else "integer does not fit 64 bits"
    return "" if node is None or isinstance(node, list) else f"a {type(node).__name__} is not JSON; put it in quotes"


def _encoding_fault(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text that is not Unicode (a lone surrogate)"
    return ""


def _faults(value: object, info: inspect.Type, path: Path) -> Iterator[Fault]:
    if isinstance(info, inspect.UnionType):
        if value is None and info.includes_none:
            return
        kinds = [each for each in info.types if not isinstance(each, inspect.NoneType)]
        info = kinds[0] if len(kinds) == 1 else info
    if isinstance(info, inspect.StructType):
        yield from _struct_faults(value, info, path)
    elif isinstance(info, inspect.ListType | inspect.VarTupleType):
        yield from _list_faults(value, info, path)
    elif isinstance(info, inspect.DictType):
        yield from _dict_faults(value, info, path)
    elif not _fits(value, info):
        yield Fault(path, f"expected {_expected(info)}, got {_show(value)}{_hint(value, info)}")


def _struct_faults(value: object, info: inspect.StructType, path: Path) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield Fault(path, f"expected a mapping, got {_show(value)}")
        return
    known = {field.encode_name: field for field in info.fields}
    for key, child in value.items():
        if key not in known:
            yield Fault((*path, key), f"unknown field{_did_you_mean(key, list(known))}")
        else:
            yield from _faults(child, known[key].type, (*path, key))
    for name, field in known.items():
        if field.required and name not in value:
            yield Fault((*path, name), f"is missing; expected {_expected(field.type)}")


def _list_faults(value: object, info: inspect.ListType | inspect.VarTupleType, path: Path) -> Iterator[Fault]:
    low, high = info.min_length or 0, info.max_length
    if not isinstance(value, list):
        yield Fault(path, f"expected a list, got {_show(value)}")
    elif len(value) < low or (high is not None and len(value) > high):
        yield Fault(path, f"expected {_expected(info)}, got {len(value)}")
    else:
        for index, child in enumerate(value):
            yield from _faults(child, info.item_type, (*path, index))


def _dict_faults(value: object, info: inspect.DictType, path: Path) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield Fault(path, f"expected a mapping, got {_show(value)}")
        return
    if info.max_length is not None and len(value) > info.max_length:
        yield Fault(path, f"expected at most {info.max_length} entries, got {len(value)}")
    for key, child in value.items():
        if not _fits(key, info.key_type):
            yield Fault((*path, key), f"expected {_expected(info.key_type)} as key")
        yield from _faults(child, info.value_type, (*path, key))


def _fits(value: object, info: inspect.Type) -> bool:  # noqa: PLR0911 - one return a type
    match info:
        case inspect.Metadata():
            return _fits(value, info.type)
        case inspect.UnionType():
            return any(_fits(value, each) for each in info.types)
        case inspect.NoneType():
            return value is None
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.EnumType():
            return isinstance(value, str) and value in {member.value for member in info.cls}
        case inspect.LiteralType():
            return isinstance(value, str) and value in info.values
        case inspect.StrType():
            return isinstance(value, str) and _text_fits(value, info)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _in_range(value, info)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(value, info)
        case _:
            raise TypeError(f"documents hold no {type(info).__name__}")


def _text_fits(value: str, info: inspect.StrType) -> bool:
    long_enough = info.min_length is None or len(value) >= info.min_length
    short_enough = info.max_length is None or len(value) <= info.max_length
    # msgspec searches; a trailing newline must not slip past `$`.
    return long_enough and short_enough and (info.pattern is None or _matches(info.pattern, value))


def _matches(pattern: str, value: str) -> bool:
    return re.search(pattern, value) is not None and "\n" not in value


def _in_range(value: float, info: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (info.ge is None or value >= info.ge)
        and (info.gt is None or value > info.gt)
        and (info.le is None or value <= info.le)
        and (info.lt is None or value < info.lt)
    )


def _expected(info: inspect.Type) -> str:  # noqa: PLR0911 - one return a type
    match info:
        case inspect.Metadata():
            return str((info.extra_json_schema or {}).get("description") or _expected(info.type))
        case inspect.UnionType():
            return " or ".join(_expected(each) for each in info.types if not isinstance(each, inspect.NoneType))
        case inspect.EnumType():
            return _one_of([str(member.value) for member in info.cls])
        case inspect.LiteralType():
            return _one_of([str(value) for value in info.values])
        case inspect.IntType():
            return f"int{_range(info)}"
        case inspect.FloatType():
            return f"number{_range(info)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return f"text matching {info.pattern}" if info.pattern else "text"
        case inspect.ListType() | inspect.VarTupleType():
            bounds = (f"at least {info.min_length}" if info.min_length else "", f"at most {info.max_length}")
            return f"a list of {' and '.join(bound for bound in bounds if bound)} entries"
        case _:
            return "a mapping"


def _one_of(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"one of {', '.join(values)}"


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return (
            f" from {info.ge:g} to {info.le:g}" if isinstance(info, inspect.FloatType) else f" {info.ge} to {info.le}"
        )
    bounds = ((">=", info.ge), (">", info.gt), ("<=", info.le), ("<", info.lt))
    shown = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None]
    return f" {' and '.join(shown)}" if shown else ""


def _hint(value: object, info: inspect.Type) -> str:
    """Why a value that looks right is not."""
    if isinstance(info, inspect.Metadata | inspect.UnionType):
        inner = [info.type] if isinstance(info, inspect.Metadata) else list(info.types)
        return next((hint for each in inner if (hint := _hint(value, each))), "")
    if isinstance(value, str) and isinstance(info, inspect.IntType | inspect.FloatType | inspect.BoolType):
        return " (text; remove the quotes)" if _reads_as(value, info) else ""
    if isinstance(value, int | float) and isinstance(info, inspect.StrType):
        return " (a number; put it in quotes)"
    if isinstance(value, str) and isinstance(info, inspect.EnumType | inspect.LiteralType):
        choices = [str(member.value) for member in info.cls] if isinstance(info, inspect.EnumType) else info.values
        close = difflib.get_close_matches(value, [str(choice) for choice in choices], n=1)
        return f"; did you mean {close[0]!r}?" if close else ""
    return ""


def _reads_as(text: str, info: inspect.Type) -> bool:
    try:
        return _fits(msgspec.json.decode(text), info)
    except msgspec.DecodeError:
        return False


def _did_you_mean(key: str, known: list[str]) -> str:
    longer = [name for name in known if key and name.startswith(key)]
    close = longer or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _show(value: object) -> str:
    text = _KINDS.get(type(value)) or repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
