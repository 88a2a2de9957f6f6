"""`fedge-agent config check|show`: what stands where, what is wrong with it, and where each value comes from."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from fedge_agent.config import EX_CONFIG, TOP_LEVEL, Config, ConfigError, load
from fedge_agent.config_environment import SOURCE, strangers
from fedge_agent.config_origins import Setting, settings_of
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_file import read_config

EX_OK: Final = 0
_OFF: Final = "off"


def check(options: argparse.Namespace) -> int:
    """Read all layers as the daemon and, unless network admission is off, as the privileged loader would.

    Returns:
        0; or 78 with each fault on standard error.
    """
    try:
        config = load(options.config)
        if config.kernel.network != _OFF:
            read_config(options.config)
    except (ConfigError, PolicyError) as error:
        lines = str(error).splitlines()
        if options.output == "json":
            print(json.dumps({"good": False, "faults": lines}, indent=2))
        else:
            print(error, file=sys.stderr)
        return EX_CONFIG
    changed = [setting for setting in settings_of(config) if not setting.is_default]
    warnings = strangers(os.environ, TOP_LEVEL)
    if options.output == "json":
        found = {"good": True, "layers": _sources(config), "warnings": warnings, "changed": [_row(s) for s in changed]}
        print(json.dumps(found, indent=2))
        return EX_OK
    for line in _described(config, os.environ):
        print(line)
    _table(changed)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return EX_OK


def show(options: argparse.Namespace) -> int:
    """Print every setting in force with its place; raises `ConfigError` as the daemon would."""
    settings = settings_of(load(options.config))
    if options.output == "json":
        print(json.dumps({"settings": [_row(setting) for setting in settings]}, indent=2))
    else:
        _table(list(settings))
    return EX_OK


def _sources(config: Config) -> list[str]:
    return [layer.source for layer in config.layers]


def _described(config: Config, environment: Mapping[str, str]) -> list[str]:
    path = config.path
    lines = [] if path.exists() else [f"{path}: not there, so everything has its default"]
    for source in _sources(config):
        names = [f" ({name})" for name in sorted(environment) if name.startswith("FEDGE_") and "__" in name]
        lines.append(f"{source}: good" + ("".join(names) if source == SOURCE else ""))
    return lines


def _row(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "value": setting.value,
        "default": setting.default,
        "origin": setting.origin,
    }


def _table(settings: list[Setting]) -> None:
    width = max((len(setting.line()) for setting in settings), default=0)
    for setting in settings:
        print(f"{setting.line():{min(width, 60)}}  {setting.origin}")
