"""Keeps enough one-time prekeys with the coordinator, so that a round can start without asking the device first."""

import asyncio
from collections.abc import Callable
from typing import Final

from fedge_agent.federation.voice import Voice
from fedge_agent.identity.keys import Identity
from fedge_agent.store import DeviceStore
from fedge_protocol.messages import Prekeys, PrekeyStatement, Up, prekey_statement
from fedge_protocol.secagg.prekeys import Prekey, generate

_BATCH: Final = 32
_LOW: Final = 8
_VALID_S: Final = 86_400.0
_LEAP: Final = 1 << 20
"""Further than a device gets in its life."""
_JOB: Final = ""
"""Prekeys belong to no job; their batch is signed under the id of its first prekey as round."""


class PrekeyPool:
    """The device's prekeys. `random` is `os.urandom` or a stand-in."""

    def __init__(
        self, fleet: str, identity: Identity, store: DeviceStore, voice: Voice, random: Callable[[int], bytes]
    ) -> None:
        self._fleet = fleet
        self._identity = identity
        self._store = store
        self._voice = voice
        self._random = random
        self._published = asyncio.Event()
        self._leapt = False

    def refill(self) -> None:
        """Publish what the coordinator has not acknowledged, and a new batch when few are left."""
        if not self._store.unpublished() and self._store.published_count() < _LOW:
            self._store.add_prekeys(generate(self._store.next_prekey_id(), _BATCH, self._random))
        self._publish()

    def acknowledged(self, first_id: int) -> None:
        """The coordinator has the batch that begins with this prekey."""
        self._store.prekeys_published(self._batch(first_id))
        self._published.set()

    def refused(self, first_id: int) -> None:
        """The coordinator will never take the batch that begins with this prekey: it is burned.

        A device that has lost its prekeys gives ids out again that the coordinator knows with other keys. It leaps over
        them, once in the life of a process; a coordinator that refuses everything is not argued with.
        """
        self._store.burn_prekeys(self._batch(first_id))
        if not self._leapt:
            self._leapt = True
            self._store.add_prekeys(generate(self._store.next_prekey_id() + _LEAP, _BATCH, self._random))
            self._publish()

    async def take(self) -> Prekey:
        """Reserve a prekey, waiting for the coordinator to have some. Bound it with a timeout."""
        while True:
            prekey = self._store.reserve_prekey()
            self.refill()
            if prekey is not None:
                return prekey
            self._published.clear()
            await self._published.wait()

    def _batch(self, first_id: int) -> list[int]:
        return [prekey.prekey_id for prekey in self._store.unpublished() if prekey.prekey_id >= first_id][:_BATCH]

    def _publish(self) -> None:
        batch = self._store.unpublished()[:_BATCH]
        if batch:
            body = Prekeys(statements=tuple(self._statement(prekey) for prekey in batch))
            self._voice.say(_JOB, batch[0].prekey_id, 0, Up.PREKEYS, body, valid_s=_VALID_S)

    def _statement(self, prekey: Prekey) -> PrekeyStatement:
        mask_public, channel_public = prekey.mask_public, prekey.channel_public
        signed = prekey_statement(self._fleet, self._identity.device_id, prekey.prekey_id, mask_public, channel_public)
        return PrekeyStatement(
            prekey_id=prekey.prekey_id,
            mask_public=mask_public,
            channel_public=channel_public,
            signature=self._identity.sign_raw(signed),
        )
