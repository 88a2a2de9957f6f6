"""Follows the coordinator's event stream and answers questions over its API."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from fedge_coordinator.api.views import Event

_BASE = "http://coordinator"


class Api:
    """The coordinator's API on its Unix socket."""

    def __init__(self, socket: Path) -> None:
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url=_BASE, timeout=20)

    def get(self, path: str) -> Any:
        """A JSON answer.

        Raises:
            httpx.HTTPError: no answer, or a refusal.
        """
        answer = self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str) -> Any:
        """Ask for an action; returns the JSON answer.

        Raises:
            httpx.HTTPError: no answer, or a refusal.
        """
        answer = self._client.post(path)
        answer.raise_for_status()
        return answer.json()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class EventFeed:
    """Calls `take` with each event, in a thread of its own, until closed."""

    def __init__(self, socket: Path, take: Callable[[Event], None]) -> None:
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url=_BASE, timeout=httpx.Timeout(10, read=None)
        )
        self._take = take
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._closed = True
        self._client.close()

    def _run(self) -> None:
        try:
            with self._client.stream("GET", "/v1/events", params={"after": 0}) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self._take(msgspec.json.decode(line.removeprefix("data: "), type=Event))
        except (httpx.HTTPError, httpx.StreamError, RuntimeError):
            if not self._closed:
                raise
