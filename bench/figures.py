"""What all benchmarks share: the machine they ran on, and a figure beside its bar and its peer."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": sum(line.startswith("processor") for line in info),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "cryptography": version("cryptography"),
    }


def bar(
    name: str,
    unit: str,
    value: float,
    limit: float,
    *,
    better: Literal["lower", "higher"] = "lower",
    peer: str = "",
    peer_value: float | None = None,
) -> dict[str, Any]:
    """One line of a result; `peer_value` is None when the peer was not run."""
    return {
        "name": name,
        "unit": unit,
        "value": round(value, 3),
        "bar": limit,
        "better": better,
        "ok": value <= limit if better == "lower" else value >= limit,
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 3),
    }


def table(bars: list[dict[str, Any]]) -> str:
    """The lines of a result for people."""
    width = max(len(line["name"]) for line in bars)
    rows = []
    for line in bars:
        verdict = "ok" if line["ok"] else "MISSED"
        peer = "" if line["peer_value"] is None else f"{line['peer']} {line['peer_value']}"
        rows.append(
            f"{line['name']:{width}} {line['value']:>9} {line['unit']:12} bar {line['bar']:<6} {verdict:7} {peer}"
        )
    return "\n".join(rows)
