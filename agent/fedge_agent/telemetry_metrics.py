"""The device's telemetry for Prometheus, on loopback, by a process of its own.

Not by the daemon: its cgroup reaches its allow-list and nothing else, and a scraper is not on it. Run
`fedge-agent telemetry --listen 9464` beside it, as root or in group fedge.
"""

import http.server
import math
from collections.abc import Callable
from typing import Any, Final

from fedge_agent.telemetry_view import TelemetryView

_PREFIX: Final = "fedge_device"
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LOOPBACK: Final = "127.0.0.1"


def render(found: dict[str, Any]) -> str:
    """What a window says, in Prometheus' text format; a missing feature is left out, never zero."""
    lines = [f"# TYPE {_PREFIX}_feature gauge"]
    for feature in found["features"]:
        if feature["value"] is not None:
            labels = f'name="{feature["name"]}",unit="{feature["unit"]}",source="{feature["source"]}"'
            lines.append(f"{_PREFIX}_feature{{{labels}}} {feature['value']}")
    for name, total in found["counters"].items():
        lines += [f"# TYPE {_PREFIX}_{name}_total counter", f"{_PREFIX}_{name}_total {total}"]
    for name, counts in found["totals"].items():
        if counts is not None:
            lines += _histogram(name, counts)
    if found["budget"] is not None:
        for name, value in found["budget"].items():
            lines += [f"# TYPE {_PREFIX}_budget_{name} gauge", f"{_PREFIX}_budget_{name} {value}"]
    return "\n".join(lines) + "\n"


def render_admission(found: dict[str, Any]) -> str:
    """What the daemon says of training admission: the decision that stands, and how often each was taken."""
    name, decided = f"{_PREFIX}_admission", f"{_PREFIX}_admission_decisions_total"
    labels = f'state="{found["state"]}",reason="{found["reason"]}"'
    lines = [f"# TYPE {name} gauge", f"{name}{{{labels}}} 1", f"# TYPE {decided} counter"]
    for pair, count in found["decisions"].items():
        state, _, reason = pair.partition("/")
        lines.append(f'{decided}{{state="{state}",reason="{reason}"}} {count}')
    return "\n".join(lines) + "\n"


def _histogram(name: str, counts: list[int]) -> list[str]:
    lines, total, weighted = [f"# TYPE {_PREFIX}_{name} histogram"], 0, 0.0
    for slot, count in enumerate(counts):
        total += count
        weighted += count * 1.5 * (1 << slot)  # the middle of the slot: the kernel keeps no sum
        bound = "+Inf" if slot == len(counts) - 1 else str(1 << (slot + 1))
        lines.append(f'{_PREFIX}_{name}_bucket{{le="{bound}"}} {total}')
    return [*lines, f"{_PREFIX}_{name}_sum {math.floor(weighted)}", f"{_PREFIX}_{name}_count {total}"]


def server(view: TelemetryView, port: int, admission: Callable[[], dict[str, Any] | None]) -> http.server.HTTPServer:
    """A server of `/metrics` on 127.0.0.1; port 0 picks one.

    Args:
        view: of the kernel.
        port: to listen on.
        admission: asks the daemon; None where none answers, whose metrics are then left out.

    Raises:
        OSError: the port is taken.
    """

    class Scrape(http.server.BaseHTTPRequestHandler):
        """One scrape: gauges are of the time since the last one."""

        timeout = 5

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            decided = admission()
            text = render(view.window()) + ("" if decided is None else render_admission(decided))
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are no news."""

    return http.server.HTTPServer((_LOOPBACK, port), Scrape)
