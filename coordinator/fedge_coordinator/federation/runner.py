"""One job's rounds: opened, fed, committed, finished. Everything that must survive is on disk before it is answered."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedge_coordinator.federation.finish import Finisher
from fedge_coordinator.federation.intake import Message
from fedge_coordinator.federation.observer import Event, Observer, Value
from fedge_coordinator.federation.post import Post
from fedge_coordinator.federation.results import Results
from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec
from fedge_coordinator.rounds.effects import BurnPrekeys, Effect, RoundAborted, RoundSummed, Send
from fedge_coordinator.rounds.inputs import Entry, Input, Kind
from fedge_coordinator.rounds.machine import RoundMachine, Verdict
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_coordinator.settlement.interface import JobTerms, Settlement
from fedge_coordinator.store import Store
from fedge_coordinator.store.jobs import Job, JobStatus
from fedge_coordinator.store.journal import JournalEntry, OpenRound, RoundKey, RoundStatus
from fedge_protocol import jobspec
from fedge_protocol.cose import decode, encode
from fedge_protocol.eip712 import job_id
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import Abort, BlobRef, Cohort, Down, NoOffer, Offer, PrekeyStatement, Ready, Training
from fedge_protocol.secagg.padding import masked_bytes
from fedge_transport.blobs import BlobPublisher

_log = logging.getLogger(__name__)
_MAX_PLAN_BYTES: Final = 64 * 1024
_RESEND_FIRST_MS: Final = 1500
_RESEND_CEILING_MS: Final = 15_000
_ABORT_PAUSE_S: Final = 2.0


@dataclass(frozen=True)
class Parts:
    """What every runner shares. `finished` is called after each committed round; publication and settlement follow.

    While `connected` is false no device can answer, so no deadline passes.
    """

    fleet: str
    store: Store
    post: Post
    publisher: BlobPublisher
    settlement: Settlement
    finisher: Finisher
    observer: Observer
    expected: Callable[[], frozenset[str]]
    connected: Callable[[], bool]
    finished: Callable[[], None]
    clock_ms: Callable[[], int]
    random: Callable[[int], bytes]


class JobRunner:
    """Runs one job until it is finished, paused, cancelled or has failed.

    The hub calls `take` and then `write` inside a store transaction, `flush` after its commit; `run` is the job's task.
    """

    def __init__(self, name: str, parts: Parts) -> None:
        self.name = name
        self._parts = parts
        self._machine: RoundMachine | None = None
        self._key: RoundKey | None = None
        self._sequence = 0
        self._entries: list[JournalEntry] = []
        self._sends: list[Send] = []
        self._sent: dict[tuple[str, Down], tuple[int, int]] = {}
        self._wake = asyncio.Event()
        self._results = Results(parts.post, parts.clock_ms)
        self._offered: Offer | NoOffer | None = None
        self._ended: frozenset[bytes] = frozenset()

    @property
    def phase(self) -> str:
        """Of the open round, for status."""
        return self._machine.phase if self._machine is not None else "idle"

    # --- called by the hub

    def speaks_of(self, context: bytes) -> bool:
        """Whether the open round has a bucket with this context."""
        return self._machine is not None and self._machine.speaks_of(context)

    def has_ended(self, context: bytes) -> bool:
        """Whether the round before had a bucket with this context: what still comes for it is late, no more."""
        return context in self._ended

    def check_upload(self, device: str, vector: BlobRef) -> None:
        """Refuse a vector before its chunks are collected: of a device without a seat, or of another size.

        Raises:
            RefusedError: `not-in-cohort` or `bad-update`.
        """
        if self._machine is None or device not in self._machine.seated:
            raise RefusedError(Reason.NOT_IN_COHORT, device)
        expected = masked_bytes(self._machine.plan.offer.dim)
        if vector.size != expected:
            raise RefusedError(Reason.BAD_UPDATE, f"{vector.size} bytes, {expected} expected")

    def take(self, kind: Kind, message: Message) -> Verdict:
        """Fold a device's message into the open round; `write` then journals it, inside the caller's transaction.

        Raises:
            RefusedError: nothing was changed.
        """
        if self._machine is None:
            raise RefusedError(Reason.OUT_OF_PHASE, "no round is open")
        body = self._entry(message) if kind is Kind.READY else message.encoded
        verdict = self._feed(Input(self._parts.clock_ms(), kind, message.sender.device, body))
        if verdict is Verdict.ACCEPTED and kind in {Kind.READY, Kind.REFUSAL}:
            self.consider_closing()
        return verdict

    def consider_closing(self) -> None:
        """Close READY early when everybody who may answer has done so; inside a transaction."""
        machine = self._machine
        if machine is None or machine.closed or not machine.ready.enough:
            return
        answered = machine.ready.entries.keys() | machine.ready.refusals.keys()
        if self._parts.expected() <= answered:
            self._feed(Input(self._parts.clock_ms(), Kind.CLOSE, "", b""))

    def write(self) -> None:
        """Journal what was accepted since the last call; inside the transaction in which it was accepted."""
        entries, self._entries = self._entries, []
        if entries and self._key is not None:
            self._parts.store.journal.append(self._key, entries)

    def flush(self) -> None:
        """Send what the committed inputs gave rise to."""
        sends, self._sends = self._sends, []
        now_ms = self._parts.clock_ms()
        for send in sends:
            self._sent[send.device, send.kind] = (1, now_ms + _RESEND_FIRST_MS)
            self._parts.post.send(send.device, send.kind, send.body)
        if sends:
            self._wake.set()  # a phase began: it has a deadline of its own

    def result_acknowledged(self, device: str, sha256: bytes) -> None:
        """A device has the RESULT of this hash."""
        self._results.acknowledged(device, sha256)
        self._wake.set()

    def device_is_back(self, device: str) -> None:
        """A device was born again: what it was asked before may have been lost on the way, so ask at once."""
        for key in [key for key in self._sent if key[0] == device]:
            del self._sent[key]
        self._results.again(device)
        self._wake.set()

    async def reconnected(self, *, forgotten: bool) -> None:
        """There was no connection: nobody is late for that. Ask again what is unanswered.

        Args:
            forgotten: whether the broker may have lost everything, so that the offer is made again, too.
        """
        if self._machine is not None and self._machine.ended is None:
            with self._parts.store.transaction():
                self._feed(Input(self._parts.clock_ms(), Kind.RESUME, "", b""))
                self.write()
        if forgotten and self._offered is not None:
            await self._parts.post.offer(self.name, self._offered)
        self._sent.clear()
        self._wake.set()

    def poke(self) -> None:
        """The job's document or status changed."""
        self._wake.set()

    # --- the job's own task

    async def run(self) -> None:
        """Run rounds until the job is over; returns when it is not running any more."""
        store = self._parts.store
        # Before anything is awaited: what the broker kept for us belongs to the round that was open.
        last = self._resume()
        if self._cancelled:
            await self._withdraw()
            return
        job = await self._start(store.jobs.get(self.name))
        await self._publish_blobs(job)
        if last is not None:
            await self._announce_again(job, last)
        if self._machine is not None and self._machine.ended is None:
            await self._offer(self._machine.plan.offer)
        while (job := store.jobs.get(self.name)).status is JobStatus.RUNNING:
            if job.next_round > job.document.spec.rollout.rounds:
                await self._finished(job)
                return
            if self._machine is None:
                await self._open(job)
            await self._until_ended()
        await self._withdraw()

    @property
    def _cancelled(self) -> bool:
        return self._parts.store.jobs.get(self.name).status is JobStatus.CANCELLED

    async def _withdraw(self) -> None:
        """Offer nothing more; a cancelled job's open round ends without a result."""
        if self._cancelled and self._machine is not None and self._key is not None:
            machine = self._machine
            await self._aborted(self._key, machine, RoundAborted("cancelled", tuple(sorted(machine.ready.entries))))
        next_round = self._parts.store.jobs.get(self.name).next_round
        await self._offer(NoOffer(job=self.name, next_round=next_round, finished=self._cancelled))

    async def _offer(self, body: Offer | NoOffer) -> None:
        self._offered = body
        await self._parts.post.offer(self.name, body)

    async def _start(self, job: Job) -> Job:
        store = self._parts.store
        if job.started:
            return store.jobs.set_status(job.name, JobStatus.RUNNING)
        bundle = build_bundle(parse_model_spec(jobspec.model_section(job.document), "spec.model"))
        graph, weights = store.blobs.put(bundle.graph), store.blobs.put(bundle.weights)
        rewards = job.document.spec.rewards
        terms = JobTerms(
            fleet=self._parts.fleet,
            job=job.name,
            spec_hash=job.spec_hash,
            genesis_model_hash=weights,
            initial_funds=int(rewards.per_round) * job.document.spec.rollout.rounds if rewards is not None else 0,
        )
        # Recording in settlement needs no network and so does not give way to another task inside the transaction.
        with store.transaction() as connection:
            job = store.jobs.start(job.name, graph, weights)
            await self._parts.settlement.open_job(terms, connection=connection)
        return job

    async def _publish_blobs(self, job: Job) -> None:
        for name in (job.graph, job.weights):
            if name is not None:
                await self._parts.publisher.publish(self._parts.store.blobs.get(name))

    async def _open(self, job: Job) -> None:
        parts = self._parts
        last = parts.store.journal.last_attempt(job.name, job.next_round)
        attempt = 0 if last is None else last + 1
        plan = self._plan(job, attempt)
        key = RoundKey(job.name, job.next_round, attempt)
        parts.store.journal.open(key, encode(plan))
        self._begin(key, plan)
        self._tell("round-opened", round=key.round, attempt=attempt)
        await self._offer(plan.offer)

    def _plan(self, job: Job, attempt: int) -> RoundPlan:
        if job.graph is None or job.weights is None:
            raise RefusedError(Reason.OUT_OF_PHASE, f"job {job.name} has no model yet")
        parts, spec = self._parts, job.document.spec
        seed, seal_private = parts.random(32), parts.random(32)
        weights = parts.store.blobs.get(job.weights)
        graph = parts.store.blobs.get(job.graph)
        domain = parts.settlement.domains.devices
        now_ms = parts.clock_ms()
        training = spec.training
        offer = Offer(
            version=1,
            job=job.name,
            job_id=job_id(parts.fleet, job.name),
            round=job.next_round,
            attempt=attempt,
            spec_hash=job.spec_hash,
            graph=BlobRef(job.graph, len(graph)),
            weights=BlobRef(job.weights, len(weights)),
            dim=len(weights) // 4,
            training=Training(
                source=spec.data.source,
                epochs=training.epochs,
                learning_rate=training.learning_rate,
                momentum=training.momentum,
                proximal_mu=training.proximal_mu,
                clip_norm=training.clip_norm,
                max_samples=training.max_samples,
                weight_unit=training.weight_unit,
                weight_max=training.weight_max,
            ),
            cohort=Cohort(
                minimum=spec.cohort.minimum, target=spec.cohort.target, allow_small=spec.cohort.allow_small_cohort
            ),
            suite=spec.aggregation.suite.number,
            seed_commitment=hashlib.sha256(seed).digest(),
            seal_key=X25519PrivateKey.from_private_bytes(seal_private).public_key().public_bytes_raw(),
            chain_id=domain.chain_id,
            registry=domain.verifying_contract,
            ready_deadline=now_ms // 1000 + spec.cohort.ready_seconds,
            phase_seconds=spec.cohort.phase_seconds,
        )
        return RoundPlan(
            fleet=parts.fleet,
            offer=offer,
            seed=seed,
            seal_private=seal_private,
            rotation_seed=parts.random(32),
            opened_ms=now_ms,
            floor=spec.privacy.floor or 0,
        )

    def _resume(self) -> RoundMachine | None:
        """Stand where the journal says that an earlier process stood. Returns its last finished round."""
        for unfinished in self._parts.store.journal.load_open():
            if unfinished.key.job != self.name:
                continue
            self._machine = machine = self._replay(unfinished)
            self._key, self._sequence = unfinished.key, len(unfinished.entries)
            self._tell("round-resumed", round=unfinished.key.round, phase=machine.phase, entries=self._sequence)
        finished = self._parts.store.journal.last_finished(self.name)
        if finished is None:
            return None
        last = self._replay(finished)
        self._ended = last.contexts
        return last

    async def _announce_again(self, job: Job, last: RoundMachine) -> None:
        """Say how the last round ended, before the next one is offered: who was killed after the commit told nobody."""
        if isinstance(last.ended, RoundSummed) and job.weights is not None:
            weights = BlobRef(job.weights, len(self._parts.store.blobs.get(job.weights)))
            self._results.announce(last.plan, last.ended, weights)
            await self._parts.post.flushed()

    def _replay(self, found: OpenRound) -> RoundMachine:
        plan = decode(found.plan, RoundPlan, max_bytes=_MAX_PLAN_BYTES)
        machine = RoundMachine(plan, self._parts.store.blobs.get)
        for entry in found.entries:
            machine.apply(Input(entry.at_ms, Kind(entry.kind), entry.device or "", entry.body))
        return machine

    def _begin(self, key: RoundKey, plan: RoundPlan) -> None:
        self._machine = RoundMachine(plan, self._parts.store.blobs.get)
        self._key = key
        self._sequence = 0
        self._entries.clear()
        self._sends.clear()
        self._sent.clear()

    async def _until_ended(self) -> None:
        """Tick and resend until the round has an outcome, then carry it out; or until the job is cancelled."""
        machine, key = self._machine, self._key
        if machine is None or key is None:
            return
        while machine.ended is None:
            if self._cancelled:
                return
            now_ms = self._parts.clock_ms()
            if machine.deadline_ms is not None and now_ms >= machine.deadline_ms and self._parts.connected():
                with self._parts.store.transaction():
                    self._feed(Input(now_ms, Kind.TICK, "", b""))
                    self.write()
                self.flush()
                continue
            due_ms = self._resend(machine, now_ms)
            if due_ms <= now_ms:  # a deadline that waits for the connection
                due_ms = now_ms + _RESEND_FIRST_MS
            self._wake.clear()
            try:
                async with asyncio.timeout(max(due_ms - now_ms, 1) / 1000):
                    await self._wake.wait()
            except TimeoutError:
                continue
        outcome = machine.ended
        if isinstance(outcome, RoundSummed):
            await self._summed(key, machine, outcome)
        else:
            await self._aborted(key, machine, outcome)

    def _resend(self, machine: RoundMachine, now_ms: int) -> int:
        """Send again what is due; returns when to look again, in Unix milliseconds."""
        next_ms = min(machine.deadline_ms or now_ms + _RESEND_CEILING_MS, now_ms + _RESEND_CEILING_MS)
        for send in machine.outstanding():
            count, due_ms = self._sent.get((send.device, send.kind), (0, now_ms))
            if due_ms <= now_ms:
                self._parts.post.send(send.device, send.kind, send.body)
                due_ms = now_ms + min(_RESEND_FIRST_MS * 2**count, _RESEND_CEILING_MS)
                self._sent[send.device, send.kind] = (count + 1, due_ms)
            next_ms = min(next_ms, due_ms)
        return min(next_ms, self._results.resend(now_ms))

    async def _summed(self, key: RoundKey, machine: RoundMachine, outcome: RoundSummed) -> None:
        plan = machine.plan
        finished = await self._parts.finisher.finish(key, plan, outcome)
        weights = finished.weights
        self._ended = machine.contexts
        self._machine = self._key = None
        self._tell("round-finished", round=key.round, attempt=key.attempt, **finished.summary)
        self._results.announce(plan, outcome, weights)
        self._parts.finished()
        await self._parts.publisher.publish(self._parts.store.blobs.get(weights.sha256))
        if plan.offer.weights.sha256 != weights.sha256:
            await self._parts.publisher.clear(plan.offer.weights.sha256)
        pause_s = self._parts.store.jobs.get(self.name).document.spec.rollout.pause_seconds
        if pause_s:
            await self._rest(pause_s)

    async def _aborted(self, key: RoundKey, machine: RoundMachine, outcome: RoundAborted) -> None:
        store = self._parts.store
        with store.transaction():
            store.prekeys.burn(machine.ready.prekeys)  # the devices do so, too, when they are told
            store.journal.finish(key, RoundStatus.ABORTED, outcome.reason.encode())
        self._ended = machine.contexts
        self._machine = self._key = None
        offer = machine.plan.offer
        body = Abort(job=offer.job, round=offer.round, attempt=offer.attempt, reason=outcome.reason)
        for device in outcome.devices:
            self._parts.post.send(device, Down.ABORT, body)
        self._tell("round-aborted", round=key.round, attempt=key.attempt, reason=outcome.reason)
        await self._rest(_ABORT_PAUSE_S)

    async def _finished(self, job: Job) -> None:
        await self._offer(NoOffer(job=self.name, next_round=job.next_round, finished=True))
        self._parts.store.jobs.set_status(self.name, JobStatus.FINISHED)
        self._tell("job-finished", rounds=job.next_round - 1)
        while self._results.waiting:
            now_ms = self._parts.clock_ms()
            await self._sleep(max(self._results.resend(now_ms) - now_ms, 1) / 1000)

    async def _rest(self, seconds: float) -> None:
        """Wait between rounds, still telling how the last one ended; ends early when the job is not to run any more."""
        until_ms = self._parts.clock_ms() + int(seconds * 1000)
        while (now_ms := self._parts.clock_ms()) < until_ms:
            if self._parts.store.jobs.get(self.name).status is not JobStatus.RUNNING:
                return
            next_ms = min(self._results.resend(now_ms), until_ms)
            await self._sleep(max(next_ms - now_ms, 1) / 1000)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    # --- the fold and its journal

    def _feed(self, entry: Input) -> Verdict:
        machine, key = self._machine, self._key
        if machine is None or key is None:
            raise RefusedError(Reason.OUT_OF_PHASE, "no round is open")
        verdict, effects = machine.apply(entry)
        if verdict is Verdict.ACCEPTED:
            row = JournalEntry(self._sequence, entry.at_ms, str(entry.kind), entry.device or None, entry.body)
            self._sequence += 1
            self._entries.append(row)
            self._tell("input", round=key.round, kind=str(entry.kind), device=entry.device, phase=machine.phase)
        for effect in effects:
            self._carry_out(key, effect)
        return verdict

    def _carry_out(self, key: RoundKey, effect: Effect) -> None:
        match effect:
            case Send():
                self._sends.append(effect)
            case BurnPrekeys(prekeys):
                self._parts.store.prekeys.burn(prekeys)
                self._sent.clear()
                self._tell("round-closed", round=key.round, devices=len(prekeys))
            case RoundSummed() | RoundAborted():
                self._wake.set()

    def _entry(self, message: Message) -> bytes:
        ready = message.body
        if not isinstance(ready, Ready):
            raise RefusedError(Reason.MALFORMED, "no READY")
        known = self._parts.store.prekeys.get(message.sender.device, ready.prekey_id)
        if known is None:
            raise RefusedError(Reason.UNKNOWN_PREKEY, f"prekey {ready.prekey_id} was never published")
        if known.state != "fresh" and not self._is_ours(message.sender.device, ready):
            raise RefusedError(Reason.USED_PREKEY, f"prekey {ready.prekey_id} is {known.state}")
        return encode(
            Entry(
                device=message.sender.device,
                ready=ready,
                prekey=decode(known.statement, PrekeyStatement),
                certificate=message.sender.certificate,
                chain_address=message.sender.chain_address,
            )
        )

    def _is_ours(self, device: str, ready: Ready) -> bool:
        """Whether a burned prekey belongs to this very READY, which then is a repetition."""
        if self._machine is None:
            return False
        known = self._machine.ready.entries.get(device)
        return known is not None and known.ready == ready

    def _tell(self, name: str, **fields: Value) -> None:
        self._parts.observer.happened(Event(name, self._parts.clock_ms(), {"job": self.name, **fields}))
