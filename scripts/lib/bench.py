"""Run benchmarks one after another and show their figures.

Usage: bench.py [--json] [--quick] [NAME...], where NAME is that of a program bench/NAME.py; all of them without a name.
Each program prints one JSON object when it is called with --json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BENCH = Path(__file__).resolve().parents[2] / "bench"
# What takes the interpreter that has flwr as an option, rather than looking for it itself.
FLOWER_OPTION = {"secagg": "--flower-python"}
# What has a short form.
SHORT_FORM = {"footprint"}


class BenchError(Exception):
    """A benchmark is not known or did not give a result; the message names the cure."""


def known() -> list[str]:
    """Names of the programs in bench/; what has no entry point there is shared by them."""
    return sorted(path.stem for path in BENCH.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8"))


def run(name: str, *, quick: bool) -> dict[str, Any]:
    """The result of one benchmark, where it has one in its short form; its own words go to standard error.

    Raises:
        BenchError: it printed no JSON object.
    """
    command = [sys.executable, str(BENCH / f"{name}.py"), "--json"]
    flower = os.environ.get("FEDGE_FLOWER_PYTHON")
    if flower and name in FLOWER_OPTION:
        command += [FLOWER_OPTION[name], flower]
    if quick and name in SHORT_FORM:
        command.append("--quick")
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise BenchError(
            f"bench/{name}.py ended with {done.returncode} and no result; see what it said above"
        ) from error
    return result


def table(results: list[dict[str, Any]]) -> Table:
    """All figures, one a row."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("bench", "figure"):
        shown.add_column(heading, overflow="fold")
    for heading in ("value", "bar"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("peer", overflow="fold")
    for result in results:
        for bar in result["bars"]:
            relation = "<=" if bar["better"] == "lower" else ">="
            verdict = "ok" if bar["ok"] else "MISSED"
            peer = bar["peer"] and f"{bar['peer']}: {'not run' if bar['peer_value'] is None else bar['peer_value']}"
            row = (result["bench"], bar["name"], f"{bar['value']:g} {bar['unit']}", f"{relation} {bar['bar']:g}")
            shown.add_row(*row, verdict, peer)
    return shown


def main() -> int:
    """Run and show; exit code 0 when every bar is reached, 1 when one is missed or a benchmark failed, 2 for usage."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--json", action="store_true", help="one JSON object a benchmark, and nothing else")
    parser.add_argument("--quick", action="store_true", help="footprint in three minutes instead of an hour")
    parser.add_argument("name", nargs="*", help=f"of {', '.join(known())} (default: all)")
    options = parser.parse_args()
    unknown = [name for name in options.name if name not in known()]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known())}")
    results, failed = [], False
    for name in options.name or known():
        print(f"bench/{name}.py ...", file=sys.stderr, flush=True)
        try:
            results.append(run(name, quick=options.quick))
        except BenchError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        if options.json:
            print(json.dumps(results[-1]), flush=True)
    if results and not options.json:
        Console(soft_wrap=False).print(table(results))
        machine = results[-1]["machine"]
        print(f"on {', '.join(f'{key} {value}' for key, value in machine.items())}")
    return 1 if failed or not all(bar["ok"] for result in results for bar in result["bars"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
