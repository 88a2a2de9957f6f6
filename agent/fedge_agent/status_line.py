"""State, round and reason in one line: for `systemctl status` and `fedge-agent status`."""

from dataclasses import dataclass
from typing import Final

from fedge_agent.admission.machine import Decision
from fedge_agent.federation.machine import State
from fedge_protocol.conditions import ConditionReason as AdmissionReason
from fedge_protocol.conditions import ConditionState as AdmissionState
from fedge_protocol.messages import NoOffer

MAX_CHARS: Final = 240
_STOPPED: Final = frozenset({AdmissionState.PAUSED, AdmissionState.ABORTED})
_REASONS: Final = {
    State.IDLE: "it was just offered",
    State.FETCHING: "graph and weights come from the broker",
    State.READY: "trained; waits until the coordinator closes the round",
    State.SHARING: "keys go to the other members of its bucket",
    State.MASKING: "the worker masks the update",
    State.UPLOADED: "waits to hear whose updates came",
    State.SIGNED: "waits until the others have signed whose updates came",
    State.UNMASKED: "shares are out; waits for the result",
    State.DONE: "it is over",
}
"""Why a device is in a state that admission has no part in."""


@dataclass(frozen=True, slots=True)
class RoundNow:
    """The round that runs, or the last one: `outcome` and `detail` once it has ended. `epoch` of `epochs` are done."""

    job: str
    round: int
    state: State
    epoch: int = 0
    epochs: int = 0
    outcome: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the line is made of.

    Attributes:
        duplicate: what is said of an identity on more than one disk, else empty.
        connected: to the broker; if not, `trouble` may say why.
        confirmed: the coordinator has confirmed this session.
        waiting_for: the job's word that no round is open.
    """

    admission: Decision
    duplicate: str = ""
    connected: bool = True
    trouble: str = ""
    confirmed: bool = True
    round: RoundNow | None = None
    waiting_for: NoOffer | None = None


def status_line(now: Situation) -> str:
    """One printable line of at most `MAX_CHARS`, whatever words others chose."""
    line = "".join(c if c.isprintable() else " " for c in _line(now))
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 3]}..."


def _line(now: Situation) -> str:
    if now.duplicate:
        return now.duplicate
    if not now.connected:
        return f"not connected to the broker{': ' + now.trouble if now.trouble else ''}; trying again"
    if not now.confirmed:
        return "connected; waiting for the coordinator to confirm this session"
    if now.round is not None and not now.round.outcome:
        return f"job {now.round.job} round {now.round.round}: {now.round.state}; {_reason(now.round, now.admission)}"
    return _waiting(now)


def _reason(round_: RoundNow, admission: Decision) -> str:
    if round_.state is State.WAITING:
        return admission.text
    if round_.state is State.TRAINING:
        done = f"{round_.epoch} of {round_.epochs} epochs done"
        return f"{done}; {admission.state.value}: {admission.text}" if admission.state in _STOPPED else done
    return _REASONS[round_.state]


def _waiting(now: Situation) -> str:
    parts = []
    if now.round is None:
        parts.append("waiting for a round")
    else:
        why = f" ({now.round.detail})" if now.round.detail else ""
        parts.append(f"waiting; round {now.round.round} of job {now.round.job}: {now.round.outcome}{why}")
    if now.admission.reason is AdmissionReason.OWNER:
        parts.append("paused by its owner until fedge-agent resume")
    elif now.waiting_for is not None and now.waiting_for.finished:
        parts.append(f"job {now.waiting_for.job} is finished")
    elif now.waiting_for is not None:
        parts.append(f"job {now.waiting_for.job} offers round {now.waiting_for.next_round} next")
    elif now.round is None:
        parts.append("none is offered now")
    return "; ".join(parts)
