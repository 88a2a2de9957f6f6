"""The whole of `FleetOperations` over the store: what is changed here takes effect through `on_change`."""

from collections.abc import Callable

from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.model_check import check_model
from fedge_coordinator.api.reads import Balances, PhaseOf, StoreReads, unknown_phase
from fedge_coordinator.api.views import AppliedView, DeviceView, Event, JobView
from fedge_coordinator.states import JobStatus, Outcome
from fedge_coordinator.store import Store
from fedge_coordinator.store.clock import ClockMs, wall_clock_ms
from fedge_protocol import jobspec
from fedge_protocol.jobspec import TrainingJob

OnChange = Callable[[str], None]
"""Called with a job's name after its document or status has changed and is on disk; must not block."""


class StoreFleet(StoreReads):
    """Steers jobs by writing their wanted state down; the coordinator's driver acts on it."""

    def __init__(
        self,
        store: Store,
        fleet: str,
        hub: EventHub,
        *,
        on_change: OnChange,
        phase_of: PhaseOf = unknown_phase,
        settlement: Balances | None = None,
        clock_ms: ClockMs = wall_clock_ms,
    ) -> None:
        super().__init__(store, fleet, hub, phase_of=phase_of, settlement=settlement)
        self._on_change = on_change
        self._clock_ms = clock_ms

    async def apply(self, job: TrainingJob, *, dry_run: bool) -> AppliedView:
        """Put a document in force, or only say what that would do.

        Raises:
            JobSpecError: the model cannot be built.
            ModelChangedError, JobStateError: see `store.jobs.Jobs.apply`.
        """
        check_model(job)
        if dry_run:
            outcome, shown = self._store.jobs.preview(job), None
        else:
            outcome, applied = self._store.jobs.apply(job)
            shown = self._job_view(applied)
            if outcome is not Outcome.UNCHANGED:
                self._changed(job.metadata.name, str(outcome))
        return AppliedView(
            outcome=outcome,
            dry_run=dry_run,
            name=job.metadata.name,
            spec_hash=jobspec.spec_hash(job).hex(),
            warnings=jobspec.warnings_of(job),
            job=shown,
        )

    async def pause(self, name: str) -> JobView:
        """Let the open round end, and open no other."""
        return self._move(name, JobStatus.PAUSED, "paused by the operator")

    async def resume(self, name: str) -> JobView:
        """Open rounds again after a pause or a failure."""
        started = self._store.jobs.get(name).started
        return self._move(name, JobStatus.RUNNING if started else JobStatus.PENDING, "")

    async def cancel(self, name: str) -> JobView:
        """End the job for good."""
        return self._move(name, JobStatus.CANCELLED, "cancelled by the operator")

    async def accept_device(self, device: str) -> DeviceView:
        """Let the disk of a device that spoke last speak again, from whatever machine it is in now.

        Raises:
            NotFoundError: nothing was ever heard of the device.
        """
        await self.device(device)
        if self._store.sessions.accept(device):
            self._hub.publish(Event("device-accepted", self._clock_ms(), {"device": device}))
        return await self.device(device)

    def _move(self, name: str, status: JobStatus, reason: str) -> JobView:
        if self._store.jobs.get(name).status is not status:
            self._store.jobs.set_status(name, status, reason)
            self._changed(name, str(status))
        return self._job_view(self._store.jobs.get(name))

    def _changed(self, name: str, detail: str) -> None:
        self._hub.publish(Event(f"job-{detail}", self._clock_ms(), {"job": name}))
        self._on_change(name)
