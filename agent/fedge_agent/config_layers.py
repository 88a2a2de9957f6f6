"""The layers of the configuration: agent.toml, then agent.d/*.toml in the order of their names; the last one wins.

Standard library only: `fedge-bpf` and the refresher of the policy, which run as root, read the same files by the same
rules. The environment is a layer of the daemon alone (`fedge_agent.config_environment`).
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from fedge_agent.kernel.frozen import dataclass

DEFAULT_PATH: Final = Path("/etc/fedge/agent.toml")
MAX_FILE_BYTES: Final = 256 * 1024
MAX_FILES: Final = 64
_MERGED_DEPTH: Final = 4
KeyPath: TypeAlias = Sequence[str | int]


class LayerError(Exception):
    """A layer cannot be read, or is no TOML. The text names it and the cure."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: a file with its text, or the environment (`text` None, `source` the word itself)."""

    source: str
    values: dict[str, Any]
    text: str | None = None

    def sets(self, path: KeyPath) -> bool:
        """Whether it gives this setting, table or list entry a value."""
        found: Any = self.values
        for part in path:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def place(self, path: KeyPath, needle: str = "") -> str:
        """Where it does so: `FILE:LINE`, or the variable; `needle` picks a line inside the setting."""
        if self.text is not None:
            return f"{self.source}:{line_of(self.text, path, needle)}"
        return f"{self.source}: {variable_of(self._whole(path))}"

    def _whole(self, path: KeyPath) -> KeyPath:
        """The path of the first variable at or under `path`."""
        found: Any = self.values
        whole = list(path)
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        while isinstance(found, dict) and found:
            name, found = next(iter(found.items()))
            whole.append(name)
        return whole


def dropin_folder(path: Path) -> Path:
    """`agent.d` beside `agent.toml`."""
    return path.with_suffix(".d")


def file_layers(path: Path, read: Callable[[Path], str]) -> tuple[Layer, ...]:
    """The layers that are files, the first one first. The default file may be missing, any other one may not.

    Args:
        path: `agent.toml`.
        read: gives a file's text; whatever it raises is passed on.

    Raises:
        LayerError: a file is no TOML, or there are too many.
    """
    paths = [] if path == DEFAULT_PATH and not path.exists() else [path]
    return tuple(_parsed(each, read(each)) for each in [*paths, *_dropins(dropin_folder(path))])


def _dropins(folder: Path) -> list[Path]:
    try:
        found = [each for each in folder.iterdir() if each.suffix == ".toml" and not each.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LayerError(f"{folder}: {error.strerror}; chmod 755 {folder}") from None
    if len(found) > MAX_FILES:
        raise LayerError(f"{folder}: {len(found)} files, at most {MAX_FILES} are read; put some together")
    return sorted(found, key=lambda each: each.name)


def _parsed(path: Path, text: str) -> Layer:
    try:
        return Layer(str(path), tomllib.loads(text), text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LayerError(f"{path}: {error}; put text in quotes, and give each setting a line of its own") from None


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """All settings: tables are joined, everything else is replaced by the later layer."""
    found: dict[str, Any] = {}
    for layer in layers:
        found = _joined(found, layer.values, _MERGED_DEPTH)
    return found


def _joined(old: dict[str, Any], new: dict[str, Any], depth: int) -> dict[str, Any]:
    both = dict(old)
    for name, value in new.items():
        before = both.get(name)
        join = depth > 1 and isinstance(before, dict) and isinstance(value, dict)
        both[name] = _joined(before, value, depth - 1) if join and before is not None else value
    return both


def place_of(layers: Sequence[Layer], path: KeyPath, needle: str = "") -> str:
    """Where the value of `path` that counts stands; of what is missing, where the table stands that it is missing from.

    Empty when no layer says anything.
    """
    for length in range(len(path), -1, -1):
        for layer in reversed(layers):
            if layer.sets(path[:length]) and (length or layer.values):
                return layer.place(path, needle)
    return layers[-1].place(path) if layers else ""


def variable_of(path: KeyPath) -> str:
    """`("worker", "memory_max_mib")` as `FEDGE_WORKER__MEMORY_MAX_MIB`."""
    return "FEDGE_" + "__".join(part for part in path if isinstance(part, str)).upper()


def line_of(text: str, path: KeyPath, needle: str = "") -> int:
    """The line that sets this path (or, in it, the one with `needle`), or its table's, or 1."""
    names = [str(part) for part in path]
    table: list[str] = []
    best, reached = 1, False
    for number, line in enumerate(text.split("\n"), start=1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]\s*(?:#.*)?$", line)
        if header:
            if reached:
                break
            table = _key(header[1])
            best = number if table == names[: len(table)] else best
        setting = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if setting and not reached:
            key = [*table, *_key(setting[1])]
            if key == names[: len(key)] and len(key) > len(table):
                best, reached = number, True
        if reached and needle in line:
            return number
    return best


def _key(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in text.split(".")]
