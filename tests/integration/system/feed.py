"""Follows the coordinator's event stream through its deaths; a trap set on it springs in the follower's thread."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from fedge_coordinator.api.views import Event

_CONNECT_PAUSE_S = 0.05

Predicate = Callable[[Event], bool]


class Feed:
    """All events of all lives of the coordinator, in order. `health` raises when waiting is in vain."""

    def __init__(self, socket: Path, health: Callable[[], None]) -> None:
        self.events: list[Event] = []
        self._socket = socket
        self._health = health
        self._changed = threading.Condition()
        self._trap: tuple[Predicate, Callable[[Event], None]] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def set_trap(self, predicate: Predicate, spring: Callable[[Event], None]) -> None:
        """Call `spring` once, with the first event that `predicate` wants, which may have come already."""
        with self._changed:
            for event in self.events:
                if predicate(event):
                    spring(event)
                    return
            self._trap = (predicate, spring)

    def wait_for(self, predicate: Predicate, what: str, *, timeout_s: float = 90.0) -> Event:
        """The first event that `predicate` wants."""
        since = 0
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self.events[since:]:
                    if predicate(event):
                        return event
                since = len(self.events)
                self._health()
                if time.monotonic() > deadline_s:
                    last = "\n".join(map(str, self.events[-12:]))
                    raise AssertionError(f"{what}: not within {timeout_s:.0f} s; the last events were\n{last}")
                self._changed.wait(0.5)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (httpx.HTTPError, httpx.StreamError):
                self._closed.wait(_CONNECT_PAUSE_S)

    def _follow(self) -> None:
        transport = httpx.HTTPTransport(uds=str(self._socket))
        timeout = httpx.Timeout(5, read=1)
        after = 0
        with httpx.Client(transport=transport, base_url="http://coordinator", timeout=timeout) as client:
            while not self._closed.is_set():
                try:
                    with client.stream("GET", "/v1/events", params={"after": after}) as answer:
                        for line in answer.iter_lines():
                            if line.startswith("data: "):
                                event = msgspec.json.decode(line.removeprefix("data: "), type=Event)
                                after = event.id
                                self._take(event)
                except httpx.ReadTimeout:
                    continue  # only to see whether we are closed

    def _take(self, event: Event) -> None:
        with self._changed:
            if self._trap is not None and self._trap[0](event):
                spring, self._trap = self._trap[1], None
                spring(event)
            self.events.append(event)
            self._changed.notify_all()
