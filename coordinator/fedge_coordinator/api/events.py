"""Events for those who watch: a hub with a bounded memory and bounded queues. Nothing here is needed for a round."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from fedge_coordinator.api.views import Event

REMEMBERED: Final = 4096
QUEUE_LIMIT: Final = 4096


class WatcherTooSlowError(Exception):
    """A watcher did not take its events in time and was cut off. Ask again with the last id it has seen."""


class EventHub:
    """Hands every event to every watcher. Publishing never waits."""

    def __init__(self) -> None:
        self._memory: deque[Event] = deque(maxlen=REMEMBERED)
        self._last_id = 0
        self._watchers: set[asyncio.Queue[Event | None]] = set()
        self._closed = False

    def publish(self, event: Event) -> Event:
        """Give the event its id and hand it on; a watcher whose queue is full is cut off."""
        self._last_id += 1
        numbered = msgspec.structs.replace(event, id=self._last_id)
        self._memory.append(numbered)
        for queue in tuple(self._watchers):
            if queue.qsize() >= QUEUE_LIMIT:
                self._watchers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(numbered)
        return numbered

    def close(self) -> None:
        """End every watcher's stream; the coordinator stops."""
        self._closed = True
        for queue in self._watchers:
            queue.put_nowait(None)
        self._watchers.clear()

    async def watch(self, after: int | None = None) -> AsyncIterator[Event]:
        """Events from now on, or from the one after id `after` as far as they are remembered.

        Raises:
            WatcherTooSlowError: the caller did not take them in time.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if after is not None:
            for event in self._memory:
                if event.id > after:
                    queue.put_nowait(event)
        if self._closed:
            queue.put_nowait(None)
        self._watchers.add(queue)
        try:
            while (event_or_end := await queue.get()) is not None:
                yield event_or_end
            if not self._closed:
                raise WatcherTooSlowError(f"{QUEUE_LIMIT} events behind")
        finally:
            self._watchers.discard(queue)
