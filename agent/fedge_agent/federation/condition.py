"""Tells the coordinator where training admission stands and why, never more often than every ten seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fedge_agent.admission.machine import Decision
from fedge_protocol.messages import Condition

LEAST_S: Final = 10.0
"""A busy device changes its reason several times a second; only the newest is worth a message."""


class ConditionTeller:
    """The first change is told at once, what follows within `least_s` as one: the newest, if it is another.

    Args:
        tell: sends one message, or drops it when there is no confirmed connection.
    """

    def __init__(
        self,
        tell: Callable[[Condition], Awaitable[None]],
        *,
        least_s: float = LEAST_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._least_s = least_s
        self._sleep = sleep
        self._clock = clock
        self._newest: Condition | None = None
        self._told: Condition | None = None
        self._changed = asyncio.Event()

    def changed(self, decision: Decision) -> None:
        """This decision stands now."""
        self._newest = Condition(1, decision.state, decision.reason)
        self._changed.set()

    def again(self, decision: Decision) -> None:
        """As `changed`; and what was told in another session may have been lost."""
        self._told = None
        self.changed(decision)

    async def run(self) -> None:
        """Tells until cancelled."""
        free_s = self._clock()
        while True:
            await self._changed.wait()
            if (wait_s := free_s - self._clock()) > 0:
                await self._sleep(wait_s)
            self._changed.clear()
            newest = self._newest
            if newest is not None and newest != self._told:
                self._told = newest
                free_s = self._clock() + self._least_s
                await self._tell(newest)
