"""Offers of other jobs that came while a round ran: the newest of each job, answered when the device is free."""

import asyncio
from typing import Final

from fedge_protocol.messages import Offer

_MOST_JOBS: Final = 32


class TurnedAway:
    """At most 32 jobs wait; what comes beyond is forgotten, as its coordinator expects of a busy device."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[Offer, bytes]] = {}
        self._any = asyncio.Event()

    def keep(self, offer: Offer, offer_hash: bytes) -> None:
        """Keep it, in the place of an earlier one of its job."""
        if offer.job in self._offers or len(self._offers) < _MOST_JOBS:
            self._offers[offer.job] = (offer, offer_hash)
            self._any.set()

    def forget(self, job: str) -> None:
        """The job offers no round any more."""
        self._offers.pop(job, None)
        self._settle()

    def clear(self) -> None:
        """Nothing is answered any more."""
        self._offers.clear()
        self._settle()

    async def wait(self) -> None:
        """Return once an offer waits."""
        await self._any.wait()

    def take(self) -> tuple[Offer, bytes] | None:
        """The one that has waited longest, with its hash; None when it was forgotten meanwhile."""
        if not self._offers:
            return None
        found = self._offers.pop(next(iter(self._offers)))
        self._settle()
        return found

    def _settle(self) -> None:
        if not self._offers:
            self._any.clear()
