"""What the API asks of the coordinator."""

from collections.abc import AsyncIterator
from typing import Protocol

from fedge_coordinator.api.views import (
    AppliedView,
    CheckpointView,
    DeviceView,
    Event,
    JobView,
    RewardView,
    RoundView,
)
from fedge_protocol.jobspec import TrainingJob


class FleetOperations(Protocol):
    """Reading and steering one fleet. Errors of the store and of job documents pass through; `problems` names them."""

    async def apply(self, job: TrainingJob, *, dry_run: bool) -> AppliedView:
        """Put a document in force, or only say what that would do."""
        ...  # pragma: no cover

    async def jobs(self) -> list[JobView]:
        """All jobs by name."""
        ...  # pragma: no cover

    async def job(self, name: str) -> JobView:
        """One job; NotFoundError."""
        ...  # pragma: no cover

    async def pause(self, name: str) -> JobView:
        """Let the open round end, and open no other; NotFoundError, JobStateError."""
        ...  # pragma: no cover

    async def resume(self, name: str) -> JobView:
        """Open rounds again after a pause or a failure; NotFoundError, JobStateError."""
        ...  # pragma: no cover

    async def cancel(self, name: str) -> JobView:
        """Abort the open round and end the job for good; NotFoundError, JobStateError."""
        ...  # pragma: no cover

    async def rounds(self, job: str | None) -> list[RoundView]:
        """Attempts of one job, or of all; NotFoundError."""
        ...  # pragma: no cover

    async def devices(self) -> list[DeviceView]:
        """All devices by id."""
        ...  # pragma: no cover

    async def device(self, device: str) -> DeviceView:
        """One device; NotFoundError."""
        ...  # pragma: no cover

    async def accept_device(self, device: str) -> DeviceView:
        """Let the disk of a device that spoke last speak again, from whatever machine; NotFoundError."""
        ...  # pragma: no cover

    async def checkpoints(self, job: str | None) -> list[CheckpointView]:
        """Models of one job, or of all; NotFoundError."""
        ...  # pragma: no cover

    async def rewards(self, job: str | None) -> list[RewardView]:
        """Balances of one job, or of all; NotFoundError."""
        ...  # pragma: no cover

    async def ledger(self) -> list[bytes]:
        """All lines of the local ledger, as an auditor reads them; none when settlement goes to a chain."""
        ...  # pragma: no cover

    def events(self, after: int | None) -> AsyncIterator[Event]:
        """What happens from now on, or from the event after this id."""
        ...  # pragma: no cover
