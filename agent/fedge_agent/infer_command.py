"""`fedge-agent infer`: rows in, the present model's outputs out."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from fedge_agent.config import Config
from fedge_agent.inference import client

EX_OK: Final = 0
EX_FAILED: Final = 1
EX_USAGE: Final = 2
EX_UNREACHABLE: Final = 5
_MAX_BYTES: Final = 64 << 20


class _RowsError(Exception):
    """What was given are no rows of numbers."""


def infer(config: Config, options: argparse.Namespace) -> int:
    """Ask, and print a line for each row."""
    path = options.socket or config.inference_socket
    try:
        if options.model:
            found = client.describe(path, options.job)
            text = "\n".join(f"{name}: {value}" for name, value in found.items() if name != "confinement")
        else:
            found = client.infer(path, _rows(_read(options.file)), options.job)
            text = "\n".join(" ".join(f"{value:.6g}" for value in row) for row in found["outputs"])
    except _RowsError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_USAGE
    except client.AskRefusedError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_FAILED
    except client.ServerUnreachableError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_UNREACHABLE
    print(json.dumps(found, indent=2) if options.output == "json" else text)
    return EX_OK


def _read(file: Path | None) -> str:
    if file is None or str(file) == "-":
        return sys.stdin.read(_MAX_BYTES)
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_MAX_BYTES)


def _rows(text: str) -> list[list[float]]:
    """JSON (a row, rows, or `{"inputs": rows}`), or lines of numbers with commas, semicolons or spaces between them."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _RowsError(f"no JSON: {error}; a line with [[1.0, 2.0]] is") from None
        found = found.get("inputs") if isinstance(found, dict) else found
        rows = [found] if isinstance(found, list) and found and not isinstance(found[0], list) else found
        numbers = isinstance(rows, list) and all(isinstance(row, list) and all(map(_is_number, row)) for row in rows)
        if not numbers or not rows:
            raise _RowsError("rows of numbers are needed, such as [[1.0, 2.0], [3.0, 4.0]]")
        return [[float(value) for value in row] for row in rows]
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise _RowsError("no rows were given")
    try:
        return [[float(word) for word in line.replace(",", " ").replace(";", " ").split()] for line in lines]
    except ValueError as error:
        raise _RowsError(f"{error}; rows of numbers are needed") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
