"""`fedge-agent telemetry`: what the kernel tells about this device, live in the terminal or once as JSON."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from fedge_agent.config import KernelTable
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.features import FEATURE_TABLE, VECTOR_VERSION, FeatureVector, Source
from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.telemetry import Telemetry
from fedge_agent.kernel.telemetry_ring import read_ring

Value = TypeVar("Value")
_CLEAR: Final = "\x1b[H\x1b[2J"
_BAR: Final = 40
_MIN_SHOWN: Final = 1
_MIB: Final = 1024 * 1024


class TelemetryView:
    """Takes windows of its own. It only reads: the scheduler probes rest unless training is considered."""

    def __init__(self, settings: KernelTable) -> None:
        pin_dir = Path(settings.pin_dir)
        self._settings = settings
        self._reader = MapReader(pin_dir)
        self._telemetry = Telemetry(pin_dir)
        self._histograms: dict[str, Callable[[], tuple[int, ...]]] = {
            "run_queue_us": self._reader.run_queue,
            "block_us": self._reader.block,
            "srtt_us": self._reader.srtt,
        }
        self._before = self._read_histograms()

    def close(self) -> None:
        """Gives the descriptors back."""
        self._telemetry.close()
        self._reader.close()

    def window(self) -> dict[str, Any]:
        """Everything since the last call, as JSON values."""
        vector = self._telemetry.window()
        now = self._read_histograms()
        histograms = {name: _histogram(now[name], self._before[name]) for name in now}
        self._before = now
        return {
            "vector_version": VECTOR_VERSION,
            "window_s": round(vector.window_s, 3),
            "features": _features(vector),
            "histograms": histograms,
            "totals": {name: None if counts is None else list(counts) for name, counts in now.items()},
            "counters": self._counters(),
            "budget": self._budget(),
            "scheduler_probes_on": self._probes(),
            "unreadable": self._reader.unreadable("fedge_count"),
            "ring": self._ring(),
        }

    def _read_histograms(self) -> dict[str, tuple[int, ...] | None]:
        return {name: _or_none(read) for name, read in self._histograms.items()}

    def _counters(self) -> dict[str, int]:
        network, machine = _or_none(self._reader.network), _or_none(self._reader.machine)
        totals = {counter.name.lower(): value for counter, value in (network or {}).items()}
        return totals | {counter.name.lower(): value for counter, value in (machine or {}).items()}

    def _budget(self) -> dict[str, int] | None:
        found = _or_none(self._reader.budget)
        return None if found is None else {"left_bytes": found.left_bytes, "limit_bytes": found.limit_bytes}

    def _probes(self) -> bool:
        return bool(_or_none(self._reader.scheduler_probes_on))

    def _ring(self) -> dict[str, Any] | None:
        path = self._settings.telemetry_file
        if path is None:
            return None
        try:
            windows = read_ring(Path(path))
        except OSError as error:
            return {"path": path, "error": error.strerror}
        ends = [window.end_ms for window in windows[:1] + windows[-1:]]
        return {
            "path": path,
            "windows": len(windows),
            "oldest_ms": ends[0] if ends else None,
            "newest_ms": ends[-1] if ends else None,
        }


def show(view: TelemetryView, *, every_s: float, frames: int | None = None, out: TextIO = sys.stdout) -> None:
    """Draws a window every `every_s` until interrupted, or `frames` times."""
    drawn = 0
    while frames is None or drawn < frames:
        time.sleep(every_s)
        text = draw(view.window())
        out.write((_CLEAR if out.isatty() else "") + text + "\n")
        out.flush()
        drawn += 1


def draw(found: dict[str, Any]) -> str:
    """One screen."""
    lines = [f"{'feature':22} {'value':>12}  {'unit':8} source"]
    for feature in found["features"]:
        value = "-" if feature["value"] is None else f"{feature['value']:.4g}"
        lines.append(f"{feature['name']:22} {value:>12}  {feature['unit']:8} {feature['from']}".rstrip())
    for name, histogram in found["histograms"].items():
        lines += ["", *_bars(name, histogram)]
    totals = found["counters"]
    if totals:
        refused = [name for name in totals if name.startswith("denied")]
        told = ", ".join(f"{totals[name]} {name.removeprefix('denied_')}" for name in refused)
        lines += ["", f"refused since attached: {told}; {totals['audited']} of them let pass in audit mode"]
        lines.append(
            f"refusals told: {totals['events_sent']}, counted only: {totals['events_suppressed']}, "
            f"lost for a full ring: {totals['events_lost']}"
        )
    if found["budget"] is not None:
        left, limit = (found["budget"][key] / _MIB for key in ("left_bytes", "limit_bytes"))
        lines.append(f"budget of the day: {left:.1f} of {limit:.1f} MiB left")
    if found["unreadable"] is not None:
        lines += ["", f"kernel maps: {found['unreadable']}; run fedge-bpf attach, or look as root or in group fedge"]
    if found["ring"] is not None and "windows" in found["ring"]:
        lines.append(f"kept: {found['ring']['windows']} windows of ten seconds in {found['ring']['path']}")
    return "\n".join(lines)


def _bars(name: str, histogram: dict[str, Any] | None) -> list[str]:
    if histogram is None:
        return [f"{name}: not counted here"]
    counts: Sequence[int] = histogram["counts"]
    used = [slot for slot, count in enumerate(counts) if count]
    if not used:
        return [f"{name}: nothing in this window"]
    most = max(counts)
    lines = [f"{name}: p50 {histogram['p50']:.0f}, p95 {histogram['p95']:.0f}, {sum(counts)} samples"]
    for slot in range(used[0], used[-1] + 1):
        low = 0 if slot == 0 else 1 << slot
        lines.append(f"  {low:>10} us {counts[slot]:>8} {'#' * round(_BAR * counts[slot] / most)}".rstrip())
    return lines


def _histogram(now: tuple[int, ...] | None, before: tuple[int, ...] | None) -> dict[str, Any] | None:
    if now is None or before is None:
        return None
    counts = difference(now, before)
    percentiles = {name: percentile_us(counts, p, min_samples=_MIN_SHOWN) for name, p in (("p50", 0.5), ("p95", 0.95))}
    return {"counts": list(counts), **percentiles}


def _features(vector: FeatureVector) -> list[dict[str, Any]]:
    rows = []
    for feature, value, source in zip(FEATURE_TABLE, vector.values, vector.sources, strict=True):
        origin = {Source.KERNEL: feature.source, Source.SUBSTITUTE: feature.substitute, Source.MISSING: "missing"}
        rows.append(
            {
                "name": feature.name,
                "unit": feature.unit,
                "value": None if math.isnan(value) else value,
                "source": source.value,
                "from": origin[source],
            }
        )
    return rows


def _or_none(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except KernelLayerError:
        return None
