"""Which model answers: the current one of a job, changed for the next as soon as that has landed and loaded."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent.inference.model_process import ModelProcess
from fedge_agent.inference.refusals import Reason, RefusedRequestError
from fedge_agent.model_slot import Slot, slots
from fedge_protocol.ids import JOB_PATTERN

_log = logging.getLogger(__name__)
_AGAIN_AFTER_S: Final = 10.0
_JOB: Final = re.compile(JOB_PATTERN)


@dataclass(frozen=True, slots=True)
class _Bad:
    slot: Slot
    error: RefusedRequestError
    again_s: float


class Models:
    """One process at a time, that of the model asked for last.

    Args:
        folder: the slots.
        python: interpreter of the processes.
        clock: monotonic seconds.
    """

    def __init__(
        self, folder: Path, *, python: str = sys.executable, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._python = python
        self._clock = clock
        self._process: ModelProcess | None = None
        self._changing = asyncio.Lock()
        self._bad: _Bad | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    def listed(self) -> list[Slot]:
        """The current model of every job, the newest first."""
        return slots(self._folder)

    async def process(self, job: str | None) -> ModelProcess:
        """The process with the current model of `job`, by default of the job whose model landed last.

        A model that does not load leaves the one before in service, if that still runs.

        Raises:
            RefusedRequestError: `no-model`, `bad-model`, `model-crashed`, `malformed`.
        """
        async with self._changing:
            wanted = self._wanted(job)
            present = self._process
            serves = present is not None and present.alive and present.slot.job == wanted.job
            if present is not None and serves and present.slot == wanted:
                return present
            try:
                fresh = await self._started(wanted)
            except RefusedRequestError:
                if present is None or not serves:
                    raise
                return present
            _log.info("job %s round %d: its model is in service", wanted.job, wanted.round)
            self._process = fresh
            if present is not None:
                self._retire(present)
            return fresh

    async def stop(self) -> None:
        """End every process."""
        if self._process is not None:
            await self._process.stop()
        await asyncio.gather(*self._retiring)

    async def _started(self, wanted: Slot) -> ModelProcess:
        """A new process; a model that did not load is not tried again at once, however often it is asked for."""
        bad = self._bad
        if bad is not None and bad.slot == wanted and self._clock() < bad.again_s:
            raise bad.error
        try:
            fresh = await ModelProcess.start(wanted, self._folder, python=self._python)
        except RefusedRequestError as error:
            _log.warning("%s", error)
            self._bad = _Bad(wanted, error, self._clock() + _AGAIN_AFTER_S)
            raise
        self._bad = None
        return fresh

    def _wanted(self, job: str | None) -> Slot:
        if job is not None and not _JOB.search(job):
            raise RefusedRequestError(Reason.MALFORMED, f"job {job[:60]!r}", "see GET /v1/models")
        for slot in self.listed():
            if job in (None, slot.job):
                return slot
        what = "no model" if job is None else f"no model of job {job}"
        raise RefusedRequestError(
            Reason.NO_MODEL,
            f"{what} has landed on this device",
            "wait until it takes part in a round (fedge-agent status)",
        )

    def _retire(self, process: ModelProcess) -> None:
        task = asyncio.create_task(process.retire(), name=f"retire {process.pid}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
