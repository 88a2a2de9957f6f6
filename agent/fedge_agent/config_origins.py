"""Every setting with the value in force and where it comes from: `fedge-agent config show`."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fedge_agent.admission.policy import AdmissionPolicy
from fedge_agent.config import Config, File
from fedge_agent.config_layers import merged, place_of

DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `value` and `default` as TOML would hold them, None where nothing is set; `origin` a place."""

    name: str
    value: Any
    default: Any
    origin: str

    @property
    def is_default(self) -> bool:
        """Whether the value in force is the default, wherever it was written."""
        return bool(self.value == self.default)

    def line(self) -> str:
        """`name = value`, as it would stand in the file."""
        return f"{self.name} = {'(unset)' if self.value is None else json.dumps(self.value)}"


def settings_of(config: Config) -> tuple[Setting, ...]:
    """All settings, in the order of the shipped file's tables."""
    plain = merged(config.layers)
    found = []
    for path, default in _defaults(config):
        value: Any = plain
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        present = any(layer.sets(path) for layer in config.layers)
        origin = place_of(config.layers, path) if present else DEFAULT
        found.append(Setting(".".join(path), value if present else default, default, origin))
    return tuple(found)


def _defaults(config: Config) -> Iterator[tuple[tuple[str, ...], Any]]:
    file = File()
    for name in File.__struct_fields__:
        value = getattr(file, name)
        if isinstance(value, msgspec.Struct):
            yield from (((name, inner), _plain(getattr(value, inner))) for inner in value.__struct_fields__)
        elif name == "sources":
            for source in config.sources:
                yield from (((name, source, inner), None) for inner in ("kind", "path"))
        else:
            yield (name,), value
    policy = AdmissionPolicy()
    for field in dataclasses.fields(policy):
        if field.name != "places":
            yield ("admission", field.name), _plain(getattr(policy, field.name))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return list(dataclasses.astuple(value))
    return list(value) if isinstance(value, tuple) else value
