"""Live progress: a table that is redrawn on a terminal, lines elsewhere. Always on standard error."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedge_coordinator.demo.fleet import Device
from fedge_coordinator.demo.scenario import RoundResult, Tally

_SHOWN_LINES = 6
_REFRESH_S = 0.5


class Display:
    """`say` adds a line; once `watch` was called the devices are shown and refreshed."""

    def __init__(self, rounds: int) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._rounds = rounds
        self._lines: list[str] = []
        self._devices: list[Device] = []
        self._tally = Tally()
        self._shown = 0
        self._live: Live | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._telling = threading.RLock()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Tell people something, after the rounds that have ended meanwhile."""
        with self._telling:
            self._print_rounds()
            self._add(text)

    def _add(self, text: str) -> None:
        line = f"[{time.monotonic() - self._began:5.1f} s] {text}"
        self._lines.append(line)
        if self._live is None:
            self._console.print(line, markup=False)

    def watch(self, devices: list[Device], tally: Tally) -> None:
        """Show devices and rounds from now on."""
        self._devices, self._tally = devices, tally
        if self._console.is_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        self._thread = threading.Thread(target=self._refresh, name="display", daemon=True)
        self._thread.start()

    def _refresh(self) -> None:
        while not self._stop.wait(_REFRESH_S):
            for device in self._devices:
                device.refresh()
            if self._live is not None:
                self._live.update(self._picture())
            self._print_rounds()
        self._print_rounds()

    def _print_rounds(self) -> None:
        with self._telling:
            for result in self._tally.rounds[self._shown :]:
                self._shown += 1
                self._add(_round_line(result, self._rounds))

    def _picture(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("device", "id", "state", "epoch", "pauses", "rounds"):
            table.add_column(heading, justify="right" if heading in {"epoch", "pauses"} else "left")
        for device in self._devices:
            current = device.last.get("round") or {}
            outcomes = device.last.get("outcomes", {})
            table.add_row(
                str(device.number),
                device.name[:8],
                device.state,
                f"{current.get('epoch', 0)}/{current.get('epochs', 0)}" if current else "",
                str(device.pauses),
                " ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
            )
        tally = self._tally
        head = f"round {tally.open_round} of {self._rounds}: {tally.phase}   (below the secure floor of 16 devices)"
        return Group(Text(head, style="bold"), table, Text("\n".join(self._lines[-_SHOWN_LINES:])))


def _round_line(result: RoundResult, rounds: int) -> str:
    text = f"round {result.round:2d} of {rounds}: {result.participants} devices"
    if result.dropouts:
        text += f", {result.dropouts} dropped out and recovered from"
    if result.accuracy is not None:
        text += f", accuracy on unseen people {result.accuracy:.3f}"
    return f"{text}, {result.bytes_up / max(result.participants, 1) / 1000:.1f} kB up a device"
