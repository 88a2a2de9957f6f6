"""From the signals of one window to a judgement: quiet, too much, or between the marks; each with its reason."""

import dataclasses

from fedge_agent.admission.policy import AdmissionPolicy, Mark
from fedge_protocol.conditions import ConditionReason as Reason


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """At most one of the two is needed to act: `over` pauses, `unquiet` keeps from entering or resuming.

    Attributes:
        over: the first signal that is too much, with its text.
        unquiet: the first signal that is not quiet, with its text; set whenever `over` is.
    """

    over: tuple[Reason, str] | None
    unquiet: tuple[Reason, str] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Signals:
    """One window of the device. None is unknown, never zero.

    Attributes:
        run_queue_p95_us: wait for a CPU of tasks other than the trainer's; None also when too few waited to judge.
        cpu_some: share 0 to 1 of the window in which tasks of others waited for a CPU; likewise memory and io.
        temperature_c: hottest zone.
        on_mains: None when the machine has no power supply to ask (then it is no battery device).
        battery_percent: charge of the emptiest battery.
        owner: what the owner's limits say, whatever the load.
    """

    run_queue_p95_us: float | None = None
    cpu_some: float | None = None
    memory_some: float | None = None
    io_some: float | None = None
    temperature_c: float | None = None
    on_mains: bool | None = None
    battery_percent: float | None = None
    owner: Judgement = Judgement(None, None)


def judge(signals: Signals, policy: AdmissionPolicy) -> Judgement:
    """Compares every known signal with its marks; no CPU signal at all counts as too much, for we cannot see harm."""
    over = unquiet = None
    for reason, name, value, mark, unit in _levels(signals, policy):
        if value is None:
            continue
        if value > mark.high and over is None:
            over = reason, f"{name} {value:.3g}{unit} is over {mark.high:g}{unit}"
        if value > mark.low and unquiet is None:
            unquiet = reason, f"{name} {value:.3g}{unit} is not under {mark.low:g}{unit}"
    if signals.run_queue_p95_us is None and signals.cpu_some is None:
        over = over or (Reason.SIGNALS_MISSING, "neither run-queue latency nor CPU pressure can be read")
    power = _power(signals, policy)
    # The owner's word comes first: it is the reason that a person can change.
    over = signals.owner.over or over or power.over
    return Judgement(over, over or signals.owner.unquiet or unquiet or power.unquiet)


def _levels(signals: Signals, policy: AdmissionPolicy) -> tuple[tuple[Reason, str, float | None, Mark, str], ...]:
    return (
        (Reason.RUN_QUEUE, "p95 wait for a CPU", signals.run_queue_p95_us, policy.run_queue_p95_us, " us"),
        (Reason.CPU_PRESSURE, "CPU pressure", signals.cpu_some, policy.cpu_some, ""),
        (Reason.MEMORY_PRESSURE, "memory pressure", signals.memory_some, policy.memory_some, ""),
        (Reason.IO_PRESSURE, "I/O pressure", signals.io_some, policy.io_some, ""),
        (Reason.TEMPERATURE, "temperature", signals.temperature_c, policy.temperature_c, " C"),
    )


def _power(signals: Signals, policy: AdmissionPolicy) -> Judgement:
    if signals.on_mains is not False:
        return Judgement(None, None)
    if policy.require_mains:
        why = Reason.ON_BATTERY, "on battery, and the policy requires mains"
        return Judgement(why, why)
    percent = signals.battery_percent
    if percent is None or percent >= policy.battery_percent.high:
        return Judgement(None, None)
    why = Reason.BATTERY_LOW, f"battery at {percent:g} %, under {policy.battery_percent.high:g} %"
    return Judgement(why if percent < policy.battery_percent.low else None, why)
