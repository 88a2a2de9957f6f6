"""The reading half of `FleetOperations`, straight from the store."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from sqlalchemy import select

from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.views import (
    CheckpointView,
    DeviceView,
    DuplicateView,
    Event,
    JobView,
    RefusalView,
    RewardView,
    RoundView,
)
from fedge_coordinator.settlement.tables import ledger
from fedge_coordinator.store import Store
from fedge_coordinator.store.devices import Device
from fedge_coordinator.store.errors import NotFoundError
from fedge_coordinator.store.jobs import Job, Progress
from fedge_coordinator.store.journal import RoundKey, RoundStatus, RoundSummary
from fedge_protocol import jobspec
from fedge_protocol.eip712 import job_id


class Balance(Protocol):
    """As `settlement.interface.Balance`: token units earned, and paid out so far."""

    @property
    def earned(self) -> int:
        """By the last epoch."""
        ...  # pragma: no cover

    @property
    def paid(self) -> int:
        """Never more than earned."""
        ...  # pragma: no cover


class Balances(Protocol):
    """The part of `settlement.interface.Settlement` that is read here."""

    async def balances(self, job_id: bytes) -> Mapping[bytes, Balance]:
        """Every earning device's balance by address."""
        ...  # pragma: no cover


PhaseOf = Callable[[RoundKey], str]
"""The phase that an open round is in, for people; empty when it is not known."""


def unknown_phase(_key: RoundKey) -> str:
    """The phase when no round machine runs in this process."""
    return ""


class StoreReads:
    """Reads the store of one fleet. Without a settlement nobody has rewards."""

    def __init__(
        self,
        store: Store,
        fleet: str,
        hub: EventHub,
        *,
        phase_of: PhaseOf = unknown_phase,
        settlement: Balances | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._hub = hub
        self._phase_of = phase_of
        self._settlement = settlement

    async def jobs(self) -> list[JobView]:
        """All jobs by name."""
        return [self._job_view(job) for job in self._store.jobs.all()]

    async def job(self, name: str) -> JobView:
        """One job."""
        return self._job_view(self._store.jobs.get(name))

    async def rounds(self, job: str | None) -> list[RoundView]:
        """Attempts of one job, or of all."""
        return [view for each in self._chosen(job) for view in self._rounds_of(each)]

    async def devices(self) -> list[DeviceView]:
        """All devices by id."""
        return [self._device_view(device) for device in self._store.devices.all()]

    async def device(self, device: str) -> DeviceView:
        """One device."""
        found = self._store.devices.get(device)
        if found is None:
            raise NotFoundError(f"no device {device!r} was ever seen here")
        return self._device_view(found)

    async def checkpoints(self, job: str | None) -> list[CheckpointView]:
        """Models of one job, or of all."""
        return [
            _checkpoint_view(each, progress)
            for each in self._chosen(job)
            for progress in self._store.jobs.progress(each.name)
        ]

    async def rewards(self, job: str | None) -> list[RewardView]:
        """Balances of one job, or of all that pay any."""
        chosen = self._chosen(job)
        if self._settlement is None:
            return []
        found = []
        for each in chosen:
            if each.started and each.document.spec.rewards is not None:
                balances = await self._settlement.balances(job_id(self._fleet, each.name))
                found += [
                    RewardView(each.name, f"0x{account.hex()}", str(balance.earned), str(balance.paid))
                    for account, balance in balances.items()
                ]
        return found

    async def ledger(self) -> list[bytes]:
        """All lines of the local ledger, as an auditor reads them."""
        with self._store.transaction() as connection:
            return list(connection.execute(select(ledger.c.line).order_by(ledger.c.sequence)).scalars())

    def events(self, after: int | None) -> AsyncIterator[Event]:
        """What happens from now on, or from the event after this id."""
        return self._hub.watch(after)

    def _chosen(self, job: str | None) -> list[Job]:
        return self._store.jobs.all() if job is None else [self._store.jobs.get(job)]

    def _job_view(self, job: Job) -> JobView:
        open_attempt = self._store.journal.open_attempt(job.name)
        last = self._store.jobs.progress(job.name, last=1)
        cohort = job.document.spec.cohort
        return JobView(
            name=job.name,
            status=job.status,
            reason=job.reason,
            next_round=job.next_round,
            rounds=job.document.spec.rollout.rounds,
            phase="" if open_attempt is None else self._phase_of(open_attempt),
            cohort_minimum=cohort.minimum,
            cohort_target=cohort.target,
            below_secure_floor=job.document.below_secure_floor,
            warnings=jobspec.warnings_of(job.document),
            metrics=last[0].metrics if last else {},
            spec_hash=job.spec_hash.hex(),
            graph=_hex(job.graph),
            weights=_hex(job.weights),
            created_at_ms=job.created_at_ms,
            updated_at_ms=job.updated_at_ms,
            document=job.document,
        )

    def _rounds_of(self, job: Job) -> list[RoundView]:
        finished = {(each.round, each.attempt): each for each in self._store.jobs.progress(job.name)}
        return [
            self._round_view(job, summary, finished.get((summary.key.round, summary.key.attempt)))
            for summary in self._store.journal.rounds(job.name)
        ]

    def _round_view(self, job: Job, summary: RoundSummary, progress: Progress | None) -> RoundView:
        return RoundView(
            job=job.name,
            round=summary.key.round,
            attempt=summary.key.attempt,
            status=summary.status,
            phase=self._phase_of(summary.key) if summary.status is RoundStatus.OPEN else "",
            opened_at_ms=summary.opened_at_ms,
            closed_at_ms=summary.closed_at_ms,
            participants=None if progress is None else progress.participants,
            dropouts=None if progress is None else progress.dropouts,
            bytes_up=None if progress is None else progress.bytes_up,
            metrics={} if progress is None else progress.metrics,
            below_secure_floor=job.document.below_secure_floor,
        )

    def _device_view(self, device: Device) -> DeviceView:
        refusal = device.refusal
        duplicate = self._store.sessions.duplicate(device.device)
        return DeviceView(
            device=device.device,
            online=device.online,
            revoked=device.revoked,
            state=device.state,
            version=device.version,
            missing_features=device.missing_features,
            first_seen_ms=device.first_seen_ms,
            last_seen_ms=device.last_seen_ms,
            prekeys_fresh=self._store.prekeys.counts(device.device).fresh,
            refusal=None if refusal is None else RefusalView(refusal.reason, refusal.detail, refusal.at_ms),
            duplicate=None if duplicate is None else DuplicateView(duplicate.reason, duplicate.since_ms),
        )


def _checkpoint_view(job: Job, progress: Progress) -> CheckpointView:
    return CheckpointView(
        job=job.name,
        round=progress.round,
        weights=_hex(progress.weights) or "",
        participants=progress.participants,
        finished_at_ms=progress.finished_at_ms,
        checkpoint=_hex(progress.checkpoint),
        tx_hash=_hex(progress.tx_hash),
        below_secure_floor=job.document.below_secure_floor,
    )


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
