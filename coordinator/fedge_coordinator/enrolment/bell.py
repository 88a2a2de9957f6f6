"""Wakes those who wait for the membership log to grow, or for the CA to stop."""

import asyncio


class Bell:
    """Rung by whoever changed something, in the loop's thread. Take a `ticket` before looking, wait on it after."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._closed = False

    def ticket(self) -> asyncio.Event:
        """An event that is set at the next ring; at once when the bell is closed."""
        return self._next

    def ring(self) -> None:
        """Wake everybody who holds a ticket."""
        self._next.set()
        if not self._closed:
            self._next = asyncio.Event()

    def close(self) -> None:
        """Wake everybody, and let nobody wait any more."""
        self._closed = True
        self._next.set()
