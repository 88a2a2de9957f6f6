"""IDLE -> ADMITTED -> RUNNING <-> PAUSED -> ABORTED, as a state machine without clock or input of its own."""

import dataclasses

from fedge_agent.admission.judgement import Judgement, Signals, judge
from fedge_agent.admission.policy import AdmissionPolicy
from fedge_protocol.conditions import ConditionReason as Reason
from fedge_protocol.conditions import ConditionState as State


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A state and why; `at_s` is the injected clock's time of the change."""

    state: State
    reason: Reason
    text: str
    at_s: float


class NotAdmittedError(Exception):
    """A worker was to be started while the device is not admitted; wait for a Decision with State.ADMITTED."""


class AdmissionMachine:
    """Takes signals and events with their time, and gives the Decision that now stands.

    Every method returns the present decision; a new object means that state or reason changed.
    """

    def __init__(self, policy: AdmissionPolicy) -> None:
        self._policy = policy
        self._wanted = False
        self._owner_hold = False
        self._protected = False
        self._deadline_s = 0.0
        self._quiet_since_s: float | None = None
        self._quiet_windows = 0
        self._over_windows = 0
        self.decision = Decision(State.IDLE, Reason.NO_JOB, "no job asks for training", 0.0)

    @property
    def wanted(self) -> bool:
        """Whether a job waits, runs or is paused: signals are needed."""
        return self._wanted and self.decision.state is not State.ABORTED

    @property
    def alarmed(self) -> bool:
        """Whether the last window was over a high mark, and one or more like it would pause."""
        return self._over_windows > 0

    def seek(self, now_s: float) -> Decision:
        """A job asks for admission."""
        if not self._wanted:
            self._wanted = True
            self._reset()
            if self._owner_hold:
                return self._held(now_s)
            self._decide(State.IDLE, Reason.SETTLING, "a job waits for a quiet device", now_s)
        return self.decision

    def rest(self, now_s: float) -> Decision:
        """The round is over or given up, from any state."""
        self._wanted = self._protected = False
        self._reset()
        return self._decide(State.IDLE, Reason.NO_JOB, "no job asks for training", now_s)

    def start(self, now_s: float, deadline_s: float) -> Decision:
        """The worker starts. Paused beyond `deadline_s` (same clock) the round is aborted.

        Raises:
            NotAdmittedError: the state is not ADMITTED.
        """
        if self.decision.state is not State.ADMITTED:
            raise NotAdmittedError(f"{self.decision.state.value}: {self.decision.text}")
        self._reset()
        self._deadline_s = deadline_s
        return self._decide(State.RUNNING, Reason.STARTED, "training", now_s)

    def protect(self, now_s: float) -> Decision:
        """READY goes out: from here to `rest` the worker runs, for a pause would look like a drop-out.

        Has no effect unless RUNNING or PAUSED.
        """
        if self.decision.state in (State.RUNNING, State.PAUSED):
            self._protected = True
            return self._decide(State.RUNNING, Reason.PROTECTED, "not paused until the round ends", now_s)
        return self.decision

    def hold(self, now_s: float) -> Decision:
        """The owner pauses training, at once; a protected round is finished first."""
        self._owner_hold = True
        return self._held(now_s)

    def release(self, now_s: float) -> Decision:
        """The owner lets training go on; it resumes as after any other pause."""
        self._owner_hold = False
        self._reset()
        return self.tick(now_s)

    def observe(self, signals: Signals, now_s: float) -> Decision:
        """One window of signals."""
        if not self.wanted or self._protected:
            return self.decision
        if self._owner_hold:
            self._held(now_s)
            return self.tick(now_s)
        judgement = judge(signals, self._policy)
        self._over_windows = self._over_windows + 1 if judgement.over else 0
        self._quiet_windows = 0 if judgement.unquiet else self._quiet_windows + 1
        if judgement.unquiet:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        if self.decision.state is State.IDLE:
            return self._consider(judgement, self._quiet_since_s, now_s)
        if self.decision.state is State.PAUSED:
            return self._reconsider(now_s)
        return self._watch(judgement, now_s)

    def tick(self, now_s: float) -> Decision:
        """Time passed without signals: only the deadline can matter."""
        if self.decision.state is State.PAUSED and now_s >= self._deadline_s:
            text = f"paused until the round's deadline: {self.decision.text}"
            return self._decide(State.ABORTED, Reason.DEADLINE, text, now_s)
        return self.decision

    def _consider(self, judgement: Judgement, quiet_since_s: float | None, now_s: float) -> Decision:
        if judgement.unquiet or quiet_since_s is None:
            reason, text = judgement.unquiet or (Reason.SETTLING, "a job waits for a quiet device")
            return self._decide(State.IDLE, reason, text, now_s)
        if now_s - quiet_since_s >= self._policy.enter_after_s:
            self._over_windows = 0
            return self._decide(State.ADMITTED, Reason.QUIET, "the device is quiet", now_s)
        return self._decide(
            State.IDLE, Reason.SETTLING, f"quiet, for less than {self._policy.enter_after_s:g} s", now_s
        )

    def _watch(self, judgement: Judgement, now_s: float) -> Decision:
        if judgement.over is None or self._over_windows < self._policy.pause_after_windows:
            return self.decision
        self._reset()
        after = State.PAUSED if self.decision.state is State.RUNNING else State.IDLE
        return self._decide(after, *judgement.over, now_s)

    def _reconsider(self, now_s: float) -> Decision:
        if now_s >= self._deadline_s:
            return self.tick(now_s)
        if self._quiet_windows < self._policy.resume_after_windows:
            return self.decision
        self._reset()
        return self._decide(State.RUNNING, Reason.QUIET, "the device is quiet again", now_s)

    def _held(self, now_s: float) -> Decision:
        self._reset()
        if self._protected or self.decision.state is State.ABORTED or not self._wanted:
            return self.decision
        after = State.PAUSED if self.decision.state in (State.RUNNING, State.PAUSED) else State.IDLE
        return self._decide(after, Reason.OWNER, "paused by the device's owner", now_s)

    def _reset(self) -> None:
        self._quiet_since_s = None
        self._quiet_windows = self._over_windows = 0

    def _decide(self, state: State, reason: Reason, text: str, now_s: float) -> Decision:
        """Takes a decision; while state and reason stay the same, the first one stands (a text's number may differ)."""
        if (state, reason) != (self.decision.state, self.decision.reason):
            self.decision = Decision(state, reason, text, now_s)
        return self.decision
