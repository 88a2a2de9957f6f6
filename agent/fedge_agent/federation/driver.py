"""Carries out what the round machine decides: fetches, waits for admission, trains, masks, says."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedge_agent.admission.controller import AdmissionController
from fedge_agent.admission.machine import NotAdmittedError
from fedge_agent.admission.worker_control import WorkerControl
from fedge_agent.config import SourceTable
from fedge_agent.federation.effects import (
    AskAdmission,
    BurnPrekey,
    Effect,
    Fetch,
    Finished,
    Hold,
    MaskUpdate,
    Say,
    SendVector,
    Train,
)
from fedge_agent.federation.handover import empty, take_over
from fedge_agent.federation.machine import DeviceRound, State
from fedge_agent.federation.prekey_pool import PrekeyPool
from fedge_agent.federation.voice import Voice
from fedge_agent.session_record import SigningStoppedError
from fedge_agent.store import AlreadySignedError, DeviceStore
from fedge_agent.training import pipe
from fedge_agent.training.failure import TrainingError
from fedge_agent.training.supervisor import Worker
from fedge_protocol.conditions import ConditionState as AdmissionState
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef, Offer, Up, Want
from fedge_protocol.secagg.padding import masked_bytes
from fedge_transport.blobs import BlobFetcher
from fedge_transport.errors import DisconnectedError, MissingBlobError

_log = logging.getLogger(__name__)
_REFUSAL_VALID_S: Final = 60.0
_ANSWER_VALID_S: Final = 3600.0
_WANT_PAUSE_S: Final = 2.0


@dataclass(frozen=True)
class Parts:
    """What a round's driver works with; all of it outlives the round.

    `landed` is told, in a thread, of a model that is here and verified; `changed` of everything that a status shows.
    """

    store: DeviceStore
    voice: Voice
    prekeys: PrekeyPool
    fetcher: BlobFetcher
    admission: AdmissionController
    control: WorkerControl
    sources: Mapping[str, SourceTable]
    blob_dir: Path
    work_dir: Path
    outgoing_dir: Path
    changed: Callable[[], None]
    landed: Callable[[Offer, Mapping[bytes, Path]], None] = lambda _offer, _files: None


class RoundDriver:
    """One offer, from start to end. `close` ends the worker whatever happens."""

    def __init__(self, machine: DeviceRound, parts: Parts) -> None:
        self.machine = machine
        self.progress: pipe.Progress | None = None
        self.outcome: Finished | None = None
        self._parts = parts
        self._stack = contextlib.AsyncExitStack()
        self._worker: Worker | None = None
        self._files: dict[bytes, Path] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()
        self._admitted = asyncio.Event()
        self._bytes_before = parts.voice.bytes_sent

    @property
    def offer(self) -> Offer:
        """The offer that this is about."""
        return self.machine.offer

    def start(self) -> None:
        """Answer the offer."""
        self.step(lambda: self.machine.start(now=time.monotonic(), unix_now=time.time()))

    def step(self, event: Callable[[], list[Effect]]) -> None:
        """Give the machine an event and carry out what follows.

        Raises:
            RefusedError: the machine refused the event; nothing was changed.
        """
        for effect in event():
            self._carry_out(effect)
        self._set_timer()
        self._parts.changed()

    def admission_changed(self) -> None:
        """The admission controller has decided anew."""
        if self._parts.admission.decision.state is AdmissionState.ADMITTED:
            self._admitted.set()
        elif self._parts.admission.decision.state is AdmissionState.ABORTED and self.machine.state is State.TRAINING:
            self._refuse(Reason.NOT_ADMITTED, self._parts.admission.decision.text)

    async def close(self) -> None:
        """Return when the worker and everything else that ran for this round has ended, whoever asked for it first."""
        await asyncio.shield(self._close_soon())

    def _close_soon(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"end of {self.offer.job} {self.offer.round}")
            self._closing.add_done_callback(self._done)
        return self._closing

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Killed before `finish` thaws it: an aborted worker gets no further turn. Its cgroup goes last, empty.
        self._parts.control.kill()
        self._parts.admission.finish()
        await self._stack.aclose()
        empty(self._parts.work_dir)
        try:
            self._parts.control.close()
        except OSError as error:
            _log.warning("the worker's cgroup stays: %s", error)

    # --- effects

    def _carry_out(self, effect: Effect) -> None:
        parts = self._parts
        match effect:
            case Fetch():
                self._start(self._fetch())
            case AskAdmission():
                self._start(self._wait_for_admission())
            case Train():
                self._start(self._train())
            case MaskUpdate():
                self._start(self._mask(effect))
            case Hold():
                parts.admission.protect()
            case BurnPrekey(prekey_id):
                parts.store.burn_prekeys([prekey_id])
            case Say():
                self._say(effect)
            case SendVector():
                pass  # the manifest carries its vector with it (`Voice.say`)
            case Finished():
                self._finish(effect)

    def _say(self, effect: Say) -> None:
        offer = self.offer
        valid_s = _ANSWER_VALID_S if effect.final else _REFUSAL_VALID_S
        try:
            self._parts.voice.say(offer.job, offer.round, offer.attempt, effect.kind, effect.body, valid_s=valid_s)
        except (AlreadySignedError, SigningStoppedError) as error:
            # Only a round that an earlier process answered gets here, or one that ends because nothing is signed now.
            _log.warning("%s", error)
            if effect.final:
                self._start(self._abandon(str(error)))  # sit it out, as the store demands

    def _finish(self, effect: Finished) -> None:
        self.outcome = effect
        self.ended.set()
        offer = self.offer
        self._parts.store.round_ended(
            offer.job,
            offer.round,
            offer.attempt,
            outcome=effect.outcome,
            detail=effect.detail,
            bytes_up=self._parts.voice.bytes_sent - self._bytes_before,
        )
        _log.info("job %s round %d: %s %s", offer.job, offer.round, effect.outcome, effect.detail)
        if effect.result is not None or effect.outcome in {"aborted", "left-out", "timed-out", "abandoned", "refused"}:
            self._parts.voice.forget(offer.job, offer.round, offer.attempt)
        self._close_soon()

    def _refuse(self, reason: Reason, detail: str) -> None:
        self.step(lambda: self.machine.refuse(reason, detail))

    async def _abandon(self, detail: str) -> None:
        self.step(lambda: self.machine.abandon(detail))

    async def _fetch(self) -> None:
        for ref in (self.offer.graph, self.offer.weights):
            while True:
                try:
                    self._files[ref.sha256] = await self._parts.fetcher.fetch(ref)
                except MissingBlobError:
                    await self._parts.voice.tell(Up.WANT, Want(sha256=ref.sha256))
                    await asyncio.sleep(_WANT_PAUSE_S)
                except DisconnectedError:
                    return
                except (RefusedError, OSError) as error:
                    self._refuse(Reason.MISSING_BLOB, str(error))
                    return
                else:
                    break
        try:
            await asyncio.to_thread(self._parts.landed, self.offer, self._files)
        except OSError as error:
            _log.warning("the model of %s cannot be put into service: %s", self.offer.job, error)
        self.step(self.machine.fetched)

    async def _wait_for_admission(self) -> None:
        self._parts.admission.seek()
        self.admission_changed()
        await self._admitted.wait()
        self.step(self.machine.admitted)

    async def _train(self) -> None:
        offer, parts = self.offer, self._parts
        try:
            worker = await self._start_worker()
            trained = await worker.train(self._training())
            async with asyncio.timeout(offer.phase_seconds * 4):
                prekey = await parts.prekeys.take()
        except NotAdmittedError as error:
            self._refuse(Reason.NOT_ADMITTED, str(error))
        except TimeoutError:
            self._refuse(Reason.UNKNOWN_PREKEY, "no prekey was acknowledged in time")
        except (TrainingError, OSError) as error:
            self._refuse(Reason.TRAINING_FAILED, str(error))
        else:
            now, unix_now = time.monotonic(), time.time()
            self.step(lambda: self.machine.trained(trained.samples, trained.dim, prekey, now=now, unix_now=unix_now))

    def _training(self) -> pipe.Train:
        training = self.offer.training
        source = self._parts.sources[training.source]
        return pipe.Train(
            graph_path=str(self._files[self.offer.graph.sha256]),
            weights_path=str(self._files[self.offer.weights.sha256]),
            source=pipe.Source(kind=source.kind, name=training.source, path=source.path),
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            proximal_mu=training.proximal_mu,
            shuffle_seed=_shuffle_seed(self.offer),
            clip_norm=training.clip_norm,
            max_samples=training.max_samples,
        )

    async def _start_worker(self) -> Worker:
        parts = self._parts
        parts.control.prepare()
        worker = await self._stack.enter_async_context(
            Worker(parts.work_dir, cgroup=parts.control.cgroup, on_progress=self._on_progress)
        )
        self._worker = worker
        parts.control.adopt(worker.pid)
        deadline_s = time.monotonic() + max(self.offer.ready_deadline - time.time(), 1.0)
        parts.admission.start(parts.control, deadline_s)
        return worker

    async def _mask(self, effect: MaskUpdate) -> None:
        if self._worker is None:
            return
        temporary = self._parts.work_dir / f"masked.{secrets.token_hex(8)}"
        try:
            masked = await self._worker.mask(
                pipe.Mask(
                    pairs=tuple(pipe.Pair(sign=1 if sign > 0 else -1, seed=seed) for sign, seed in effect.pairs),
                    self_seed=effect.self_seed,
                    suite=effect.suite,
                    levels=effect.levels,
                    coordinate_range=effect.coordinate_range,
                    rotation_seed=effect.rotation_seed,
                    weight=effect.weight,
                    weight_max=effect.weight_max,
                    out_path=str(temporary),
                )
            )
            vector = BlobRef(sha256=masked.sha256, size=masked_bytes(self.offer.dim))
            await asyncio.to_thread(take_over, temporary, vector, self._parts.outgoing_dir)
        except (TrainingError, RefusedError, OSError) as error:
            await self._abandon(f"masking failed: {error}")
            return
        self.step(lambda: self.machine.masked(vector))

    def _on_progress(self, progress: pipe.Progress) -> None:
        self.progress = progress
        self._parts.changed()

    # --- tasks and time

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"round {self.offer.job} {self.offer.round}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("round %s %d", self.offer.job, self.offer.round, exc_info=error)
            if self.outcome is None:
                self.step(lambda: self.machine.abandon(f"{type(error).__name__}: {error}"))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.machine.give_up_at
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(at - time.monotonic(), 0.0), self._tick)

    def _tick(self) -> None:
        admission = self._parts.admission.decision.text
        self.step(lambda: self.machine.tick(time.monotonic(), admission=admission))


def _shuffle_seed(offer: Offer) -> int:
    """The order of the samples follows from job and round alone: weights differ in their last bits from run to run."""
    return int.from_bytes(offer.spec_hash[:7], "big") ^ offer.round
