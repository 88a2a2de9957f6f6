"""Runs the admission machine: samples, decides, freezes and thaws, and tells the daemon."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fedge_agent.admission.judgement import Signals
from fedge_agent.admission.machine import AdmissionMachine, Decision
from fedge_agent.admission.owner import OwnerWatch
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_protocol.conditions import ConditionState as State


class Clock(Protocol):
    """Time as the controller needs it."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, delay_s: float) -> None:
        """Returns after `delay_s`."""


class SystemClock:
    """The machine's own clock."""

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Sleeps in the event loop."""
        await asyncio.sleep(delay_s)


class SignalSource(Protocol):
    """What samples the device; see `SignalSampler`."""

    def sample(self, now_s: float) -> Signals | None:
        """The signals since the last call, None when there is no window yet."""

    def exclude(self, worker: Path | None) -> None:
        """Leaves the worker's own waiting out."""

    def restart(self) -> None:
        """Forgets the last window."""


class Freezable(Protocol):
    """What is paused; see `WorkerControl`."""

    @property
    def pressure_dir(self) -> Path | None:
        """The worker's own PSI files."""

    def freeze(self) -> None:
        """Stops it."""

    def thaw(self) -> None:
        """Lets it go on."""


class AdmissionController:
    """Training admission of one device; all methods belong to the event loop's thread.

    Args:
        publish: called with every new Decision, first of all by `seek`.
        probes: switches the kernel's scheduler probes (True while a job is wanted), e.g.
            `lambda on: reader.switch_scheduler_probes(on=on)`.
        owner: judges the owner's limits; by default those of `policy` on this device.
    """

    def __init__(
        self,
        signals: SignalSource,
        policy: AdmissionPolicy,
        clock: Clock,
        *,
        publish: Callable[[Decision], None],
        probes: Callable[[bool], None] | None = None,
        owner: OwnerWatch | None = None,
    ) -> None:
        self._signals = signals
        self._policy = policy
        self._clock = clock
        self._publish = publish
        self._probes = probes
        self._owner = owner or OwnerWatch.of_device(policy)
        self._machine = AdmissionMachine(policy)
        self._worker: Freezable | None = None
        self._frozen = False
        self._awake = asyncio.Event()
        self._published = self._machine.decision
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        """How often each (state, reason) was decided since the daemon began."""

    @property
    def decision(self) -> Decision:
        """The decision that stands."""
        return self._machine.decision

    async def run(self) -> None:
        """Samples while a job is wanted, sleeps without a timer otherwise. Runs until cancelled; thaws when it ends."""
        try:
            while True:
                await self._awake.wait()
                await self._clock.sleep(self._window_s())
                if self._machine.wanted:
                    self._window()
                else:
                    self._awake.clear()
        finally:
            self._set_frozen(wanted=False)
            self._switch_probes(on=False)

    def seek(self) -> Decision:
        """A job asks for admission; watch for State.ADMITTED."""
        if not self._machine.wanted:
            self._owner.forget()
            self._signals.restart()
            self._signals.sample(self._clock.monotonic_s())
            self._switch_probes(on=True)
            self._awake.set()
        return self._apply(self._machine.seek(self._clock.monotonic_s()))

    def start(self, worker: Freezable, deadline_s: float) -> Decision:
        """The worker, already in its cgroup, may run until `deadline_s` of the clock.

        Raises:
            NotAdmittedError: not admitted now.
        """
        decision = self._machine.start(self._clock.monotonic_s(), deadline_s)
        self._worker = worker
        self._signals.exclude(worker.pressure_dir)
        self._owner.begin(worker)
        return self._apply(decision)

    def protect(self) -> Decision:
        """READY goes out: no freeze from here to the end of the round; a paused worker is thawed."""
        return self._apply(self._machine.protect(self._clock.monotonic_s()))

    def finish(self) -> Decision:
        """The round is over or given up: nothing is wanted, nothing is frozen."""
        decision = self._machine.rest(self._clock.monotonic_s())
        self._set_frozen(wanted=False)
        if self._worker is not None:
            self._owner.end()
        self._worker = None
        self._signals.exclude(None)
        self._switch_probes(on=False)
        self._awake.clear()
        return self._apply(decision)

    def freeze(self) -> Decision:
        """The owner pauses training (`fedge-agent pause`); a protected round is finished first."""
        return self._apply(self._machine.hold(self._clock.monotonic_s()))

    def thaw(self) -> Decision:
        """The owner lets training go on (`fedge-agent resume`); it resumes once the device is quiet."""
        return self._apply(self._machine.release(self._clock.monotonic_s()))

    def _window_s(self) -> float:
        """How long the next window is; half as long once one was too much, so that a pause comes the sooner."""
        state, window_s = self._machine.decision.state, self._policy.window_s
        if state is State.IDLE:
            return self._policy.consider_every_s
        return window_s / 2 if state is State.RUNNING and self._machine.alarmed else window_s

    def _window(self) -> None:
        now_s = self._clock.monotonic_s()
        signals = self._signals.sample(now_s)
        if signals is not None:
            signals = dataclasses.replace(signals, owner=self._owner.look(now_s))
        self._apply(self._machine.tick(now_s) if signals is None else self._machine.observe(signals, now_s))

    def _apply(self, decision: Decision) -> Decision:
        # An aborted worker stays frozen: its owner kills it.
        self._set_frozen(wanted=decision.state in (State.PAUSED, State.ABORTED))
        if decision is not self._published:
            self._published = decision
            self.counts[decision.state.value, decision.reason.value] += 1
            self._publish(decision)
        return decision

    def _set_frozen(self, *, wanted: bool) -> None:
        if self._worker is not None and wanted is not self._frozen:
            if wanted:
                self._worker.freeze()
            else:
                self._worker.thaw()
            self._frozen = wanted

    def _switch_probes(self, *, on: bool) -> None:
        if self._probes is not None:
            self._probes(on)
