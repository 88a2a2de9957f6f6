"""The environment as the last layer of the daemon's configuration: `FEDGE_WORKER__MEMORY_MAX_MIB=200`.

A setting's variable is `FEDGE_` and its name in capitals, `__` between a table and its setting. A value is read as TOML
where it is TOML, and as text otherwise. What `fedge-bpf` reads too is refused: it runs as root, looks at no
environment, and would enforce something else than the daemon believes.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fedge_agent.config_layers import Layer, variable_of

SOURCE: Final = "environment"
PREFIX: Final = "FEDGE_"
SEPARATOR: Final = "__"
ROOTS_BUSINESS: Final = frozenset({"kernel", "runtime_dir"})
"""Settings and tables that the privileged loader reads, or derives a path from."""
_CURE: Final = "fedge-bpf reads it as root and takes nothing from the environment: write it into a file of agent.d"
_MAX_BYTES: Final = 16 * 1024


class EnvironmentRefusedError(Exception):
    """Variables that may not, or cannot, be settings; one line for each."""


def environment_layer(environment: Mapping[str, str], top_level: Iterable[str]) -> Layer | None:
    """The layer that the variables make; None when there is none.

    Args:
        environment: `os.environ`, or a stand-in.
        top_level: the settings that stand outside of tables; any other variable without `__` is another program's.

    Raises:
        EnvironmentRefusedError: with every fault.
    """
    values: dict[str, Any] = {}
    faults = []
    for name, text in sorted(_settings(environment, top_level).items()):
        path = name.removeprefix(PREFIX).lower().split(SEPARATOR)
        why = _refusal(path, text)
        if why:
            faults.append(f"{SOURCE}: {name}: {why}")
        else:
            _put(values, path, _value(text))
    if faults:
        raise EnvironmentRefusedError("\n".join(faults))
    return Layer(SOURCE, values) if values else None


def strangers(environment: Mapping[str, str], top_level: Iterable[str]) -> list[str]:
    """What looks like a misspelt setting among the variables that were left alone, each with the right spelling."""
    known = [variable_of((name,)) for name in top_level]
    taken = _settings(environment, top_level)
    found = []
    for name in sorted(environment):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name.startswith(PREFIX) and name not in taken and close:
            found.append(f"{SOURCE}: {name} is no setting and was left alone; did you mean {close[0]}?")
    return found


def _settings(environment: Mapping[str, str], top_level: Iterable[str]) -> dict[str, str]:
    known = {variable_of((name,)) for name in top_level}
    return {
        name: text
        for name, text in environment.items()
        if name in known or (name.startswith(PREFIX) and SEPARATOR in name.removeprefix(PREFIX))
    }


def _refusal(path: list[str], text: str) -> str:
    if not all(path):
        return f"names no setting; {variable_of(('worker', 'memory_max_mib'))} is how one is named"
    if path[0] in ROOTS_BUSINESS:
        return _CURE
    if len(text) > _MAX_BYTES:
        return f"more than {_MAX_BYTES} characters"
    return ""


def _put(values: dict[str, Any], path: list[str], value: object) -> None:
    *tables, name = path
    for table in tables:
        inner = values.get(table)
        if not isinstance(inner, dict):
            inner = values[table] = {}
        values = inner
    values[name] = value


def _value(text: str) -> object:
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text
