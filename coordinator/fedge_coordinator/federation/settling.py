"""Keeps publication and settlement moving beside the rounds: records, registrations, epochs, claims. No round waits."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from fedge_coordinator.federation.observer import Event, Observer, Value
from fedge_coordinator.federation.publishing import Publisher
from fedge_coordinator.federation.retention import Retention
from fedge_coordinator.settlement.documents import hex_bytes
from fedge_coordinator.settlement.errors import BindingRefusedError, SettlementError
from fedge_coordinator.settlement.interface import Backlog, Settlement, SignedBinding
from fedge_coordinator.store import Store
from fedge_coordinator.store.errors import StoreError
from fedge_coordinator.store.jobs import Job, JobStatus
from fedge_coordinator.store.journal import RoundKey
from fedge_protocol.eip712 import job_id

_log = logging.getLogger(__name__)
_STEP_S: Final = 1.0
_BUSY_STEP_S: Final = 0.2


class Settler:
    """Carries the backlog. `known_bindings` gives the consent of every present member."""

    def __init__(
        self,
        fleet: str,
        store: Store,
        settlement: Settlement,
        publisher: Publisher,
        observer: Observer,
        known_bindings: Callable[[], list[SignedBinding]],
        clock_ms: Callable[[], int],
        retention: Retention,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._settlement = settlement
        self._publisher = publisher
        self._observer = observer
        self._known_bindings = known_bindings
        self._clock_ms = clock_ms
        self._retention = retention
        self._wake = asyncio.Event()
        self._registered: set[bytes] = set()
        self._published: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._complained: tuple[str, ...] = ()
        self._excuses: dict[str, str] = {}
        self.backlog: Backlog | None = None

    @property
    def pending(self) -> int:
        """Entries that are not final yet, as of the last step."""
        return 0 if self.backlog is None else self.backlog.waiting + self.backlog.unconfirmed + self.backlog.failed

    def poke(self) -> None:
        """There is something new to carry out."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. A chain that is away only delays; everything stays recorded."""
        while True:
            try:
                await self._step()
            except SettlementError as error:
                _log.warning("settlement waits: %s", error)
            busy = self.backlog is not None and self.backlog.waiting
            self._wake.clear()
            try:
                async with asyncio.timeout(_BUSY_STEP_S if busy else _STEP_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self) -> None:
        await self._register()
        for job in self._store.jobs.all():
            await self._publish(job)
            if job.started and job.document.spec.rewards is not None:
                try:
                    await self._reward(job)
                    self._excuses.pop(job.name, None)
                except SettlementError as error:  # an exhausted pool, for one: the other jobs' money still moves
                    if self._excuses.get(job.name) != str(error):
                        _log.warning("the rewards of job %s wait: %s", job.name, error)
                    self._excuses[job.name] = str(error)
        self.backlog = await self._settlement.advance()
        if self.backlog.blocked and self.backlog.blocked != self._complained:
            for fault in self.backlog.blocked:
                _log.error("settlement is blocked: %s", fault)
        self._complained = self.backlog.blocked
        for job in self._store.jobs.all():
            if job.started:
                await self._note_transactions(job)

    async def _publish(self, job: Job) -> None:
        """Write the records of finished rounds for auditors; also those that an earlier process did not get to."""
        finished = job.next_round - 1
        if self._published.get(job.name, 0) >= finished:
            return
        self._published[job.name] = finished
        for row in self._store.jobs.progress(job.name):
            if row.checkpoint is None:
                await self._publish_round(RoundKey(row.job, row.round, row.attempt))
        await self._forget(job)

    async def _publish_round(self, key: RoundKey) -> None:
        try:
            record = await asyncio.to_thread(self._publisher.round_finished, key)
        except (StoreError, OSError) as error:
            _log.error("%s cannot be published until the next round has ended: %s", key, error)
            return
        if record is not None:
            checkpoint = hex_bytes(record.checkpoint.model_hash)
            self._store.jobs.set_settlement(key.job, key.round, checkpoint=checkpoint)

    async def _forget(self, job: Job) -> None:
        try:
            swept = await asyncio.to_thread(self._retention.sweep, job)
        except StoreError as error:
            _log.error("old rounds of job %s stay until the next one has ended: %s", job.name, error)
            return
        if swept.entries or swept.blobs:
            _log.debug("job %s: %d blobs and %d entries forgotten", job.name, swept.blobs, swept.entries)

    async def _note_transactions(self, job: Job) -> None:
        open_rounds = [row.round for row in self._store.jobs.progress(job.name) if row.tx_hash is None]
        if not open_rounds:
            return
        carried = await self._settlement.carried(job_id(self._fleet, job.name))
        for round_ in open_rounds:
            if round_ in carried:
                self._store.jobs.set_settlement(job.name, round_, tx_hash=carried[round_])

    async def _register(self) -> None:
        new = [signed for signed in self._known_bindings() if signed.binding.device not in self._registered]
        if not new:
            return
        try:
            await self._settlement.register_devices(new)
        except BindingRefusedError:
            await self._register_one_by_one(new)
        self._registered |= {signed.binding.device for signed in new}

    async def _register_one_by_one(self, bindings: list[SignedBinding]) -> None:
        """One device without a valid consent stays unregistered, and holds nobody else up."""
        for signed in bindings:
            try:
                await self._settlement.register_devices([signed])
            except BindingRefusedError as error:
                _log.error("a device cannot be registered for rewards: %s", error)

    async def _reward(self, job: Job) -> None:
        rewards = job.document.spec.rewards
        if rewards is None:
            return
        name, finished = job_id(self._fleet, job.name), job.next_round - 1
        if job.name not in self._settled:
            self._settled[job.name] = await self._settled_before(job.name, name)
        # Rounds are counted from the last epoch's end, wherever an earlier process or a change of the job left it.
        due = finished - self._settled[job.name]
        if due >= rewards.epoch_rounds or (due and job.status is JobStatus.FINISHED):
            document = await self._settlement.settle_epoch(name)
            self._settled[job.name] = finished
            if document is not None:
                self._publisher.epoch_settled(job.name, document)
                self._tell("epoch-settled", job=job.name, epoch=document.epoch, total=document.total)
        if self._settled.get(job.name):
            begun = await self._settlement.claim_all(name)
            if begun:
                self._tell("claims-relayed", job=job.name, accounts=begun)

    async def _settled_before(self, job: str, name: bytes) -> int:
        """The last round that an epoch has paid for; that epoch is published again, for who was killed in between."""
        last = await self._settlement.last_epoch(name)
        if last is None or not last.rounds:
            return 0
        self._publisher.epoch_settled(job, last)
        return last.rounds[-1].round

    def _tell(self, name: str, **fields: Value) -> None:
        self._observer.happened(Event(name, self._clock_ms(), fields))
