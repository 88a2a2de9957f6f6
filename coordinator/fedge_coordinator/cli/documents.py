"""Job documents from YAML (1.2 core schema: no aliases, no tags, no dates), with the line of every value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from fedge_protocol.faults import MAX_DEPTH, Fault, Path
from fedge_protocol.jobspec import JobSpecError, TrainingJob, parse

MAX_TEXT_BYTES: Final = 256 * 1024
MAX_DOCUMENTS: Final = 64
_PREFIX: Final = "tag:yaml.org,2002:"
_DEPTH_LIMIT: Final = MAX_DEPTH + 2


class DocumentError(Exception):
    """The text is no YAML that is accepted here. `line` counts from 1."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class SourceDocument:
    """Plain data, and the line where each part of it begins."""

    data: object
    lines: Mapping[Path, int] = field(repr=False)

    def line_of(self, path: Path) -> int:
        """The line of a path, or of the nearest part above it that is written down."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the YAML 1.2 core schema: 1e-3 is a number, `on` and dates are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's way


_Loader.add_implicit_resolver(f"{_PREFIX}null", re.compile(r"^(?:~|null)?$"), ["~", "n", ""])
_Loader.add_implicit_resolver(f"{_PREFIX}bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(f"{_PREFIX}int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_PREFIX}float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read_documents(content: bytes) -> list[SourceDocument]:
    """All documents of a YAML (or JSON) text.

    Raises:
        DocumentError: with the line at fault.
    """
    if len(content) > MAX_TEXT_BYTES:
        raise DocumentError(f"more than {MAX_TEXT_BYTES} bytes; a job document is a few kilobytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DocumentError("the text is not UTF-8", content.count(b"\n", 0, error.start) + 1) from error
    try:
        # the loader derives from SafeLoader
        nodes = list(yaml.compose_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(f"not YAML: {error.problem or error.context}", mark.line + 1 if mark else 1) from error
    except yaml.YAMLError as error:
        raise DocumentError(f"not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error
    if not nodes or len(nodes) > MAX_DOCUMENTS:
        raise DocumentError(f"{len(nodes)} documents; 1 to {MAX_DOCUMENTS} are taken")
    return [_document(node) for node in nodes]


def training_job(document: SourceDocument) -> TrainingJob:
    """The job of a document.

    Raises:
        JobSpecError: with every fault; `line_of` tells where.
    """
    return parse(document.data)


def fault_lines(document: SourceDocument, error: JobSpecError, name: str) -> tuple[str, ...]:
    """Every fault as `name:line: path: message`, in the order of the text."""
    located = sorted(((document.line_of(fault.path), fault) for fault in error.faults), key=_by_line)
    return tuple(f"{name}:{line}: {fault}" for line, fault in located)


def _by_line(located: tuple[int, Fault]) -> int:
    return located[0]


def _document(node: yaml.Node) -> SourceDocument:
    lines: dict[Path, int] = {}
    return SourceDocument(_build(node, (), lines, set()), lines)


def _build(node: yaml.Node, path: Path, lines: dict[Path, int], seen: set[int]) -> object:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise DocumentError("aliases (*name) are not taken; write the value out", line)
    seen.add(id(node))
    if len(path) > _DEPTH_LIMIT:
        raise DocumentError("nested too deeply", line)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
        return [_build(child, (*path, index), lines, seen) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
        return _mapping(node, path, lines, seen)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, line)
    raise DocumentError(f"tag {node.tag!r} is not taken", line)


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int], seen: set[int]) -> dict[str, object]:
    built: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise DocumentError("a key must be text", line)
        key = key_node.value
        if key in built:
            raise DocumentError(f"key {key!r} is there twice, first at line {lines[(*path, key)]}", line)
        lines[(*path, key)] = line
        built[key] = _build(value_node, (*path, key), lines, seen)
    return built


def _scalar(node: yaml.ScalarNode, line: int) -> object:
    text = node.value
    try:
        match node.tag.removeprefix(_PREFIX):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text == "true"
            case "int":
                return int(text)
            case "float":
                return float(text)
            case _:
                raise DocumentError(f"tag {node.tag!r} is not taken", line)
    except ValueError:
        raise DocumentError(f"{text[:40]!r} is no number", line) from None
