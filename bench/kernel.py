"""What the kernel layer costs, and what it protects.

Loading by both compilers; a packet, a connect, a task switch; how exact the pace is; how soon training pauses and goes
on; and a foreground task beside no trainer, an unmanaged one and ours.

Needs root, cgroup v2 and clang; python3-bpfcc for the peer. `--json` prints the result alone. On a busy machine the
foreground's figures say little: they are pairs, interleaved, and their 95 % interval is told.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fedge_agent.admission.controller import AdmissionController, SystemClock
from fedge_agent.admission.machine import Decision
from fedge_agent.admission.policy import AdmissionPolicy, Mark
from fedge_agent.admission.signals import SignalSampler
from fedge_agent.admission.worker_control import WorkerControl
from fedge_agent.kernel.histogram import difference, percentile_us
from fedge_agent.kernel.reader import MapReader
from fedge_agent.kernel.records import Counter
from fedge_agent.kernel.telemetry import Telemetry
from fedge_protocol.conditions import ConditionState as State
from figures import bar, machine, table
from kernel_ground import SYSTEM_PYTHON, Ground, empty_program, python, run_statistics, test_run_ns

LOADS, REPEAT, RUNS = 7, 1_000_000, 15
RATE_KIB, TRANSFER_S = 1024, 4.0
RETRANSMITS_AT = 100  # tcpi_total_retrans in struct tcp_info
TRAINERS = 2 * (os.cpu_count() or 1)
WORKERS = 1  # the worker is one process with one thread (training/interpreter.py)
_TRAINED_SHARE = 0.1  # of the run's length, in CPU time: less counts as not admitted
POLICY = AdmissionPolicy(allow_metered=True, enter_after_s=0.0, consider_every_s=0.2)
_NEVER = Mark(2.0, 3.0)  # more than all of the time
BUSY = "while True: pass"
# As the worker trains: it rests between steps.
TRAINING = "from fedge_agent.training.breath import Breath\nbreath = Breath()\nwhile True: breath.breathe()"
CONNECTS = """
import socket, sys
for _ in range(3000):
    with socket.socket() as one:
        try: one.connect(("127.0.0.1", int(sys.argv[1])))
        except OSError: pass
"""
SWITCHES = "import time\nfor _ in range(5000): time.sleep(1e-6)"
SENDER = """
import socket, sys, time
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end: one.send(bytes(65536))
info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
print(int.from_bytes(info[int(sys.argv[3]):int(sys.argv[3]) + 4], sys.byteorder))
"""
# Wakes every 2 ms for a little work; how late the work is done is what a user would feel.
FOREGROUND = """
import json, sys, time
late, due = [], time.monotonic() + 0.002
end = due + float(sys.argv[1])
while due < end:
    time.sleep(max(due - time.monotonic(), 0))
    for _ in range(2000): pass
    now = time.monotonic()
    late.append(now - due)
    due = max(due + 0.002, now)
print(json.dumps(late))
"""


def main() -> int:
    """Measure and print; exit 1 when a bar is missed, 2 when this is not the place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--pairs", type=int, default=20, help="of foreground runs (default 20; 0 leaves them out)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a foreground run (default 2)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench/kernel.py: loading BPF programs needs root; run with sudo", file=sys.stderr)
        return 2
    with Ground() as ground:
        result = measure(ground, options.pairs, options.seconds)
    print(
        json.dumps(result) if options.json else table(result["bars"]) + "\n" + json.dumps(result["details"], indent=2)
    )
    return 0 if all(line["ok"] for line in result["bars"]) else 1


def measure(ground: Ground, pairs: int, seconds: float) -> dict[str, Any]:
    """The whole result in the format of all benchmarks."""
    details: dict[str, Any] = {}
    objects = loads(ground, "object", LOADS)
    bcc = loads(ground, "bcc", 3) if has_bcc() else {"load_ms": None, "peak_mb": None}
    details["load"] = {"object": objects, "bcc": bcc}
    bars = [
        bar("load to attached", "ms", objects["load_ms"], 50, peer="bcc", peer_value=bcc["load_ms"]),
        bar("loader's peak memory", "MB", objects["peak_mb"], 12, peer="bcc", peer_value=bcc["peak_mb"]),
    ]
    with listening() as (server, port):
        packets = {name: packet_ns(ground, name, port) for name in (["bcc"] if has_bcc() else []) + ["object"]}
        details["packet_ns"] = packets
        peer = packets.get("bcc", {})
        for direction, limit in (("egress", 120), ("ingress", 40)):
            value = packets["object"][direction]
            bars.append(bar(direction, "ns", value, limit, peer="bcc", peer_value=peer.get(direction)))
        details["event_ns"] = event_ns(ground, port)
        paced = pacing(ground, server, port)
        details["pacing"] = paced
        bars.append(bar("error of the pace", "%", paced["error_percent"], 5))
        bars.append(bar("drops and retransmits while paced", "", paced["drops"] + paced["retransmits"], 0))
    share = telemetry_share(ground)
    details["telemetry"] = share
    bars.append(bar("telemetry of an idle daemon", "% of a core", share["percent_of_a_core"], 0.1))
    if pairs:
        reaction = asyncio.run(react(ground))
        details["reaction"] = reaction
        for name, limit in (("pause_ms", 500), ("resume_ms", 10_000)):
            if reaction[name] is not None:
                bars.append(bar(name.replace("_ms", " after the load's change"), "ms", reaction[name], limit))
        found = asyncio.run(foreground(ground, pairs, seconds))
        details["foreground"] = found
        ratios = found["p99_ratio_to_none"]
        ours, unmanaged = ratios["ours"]["median"], ratios["unmanaged"]["median"]
        if found["runs_with_training"] * 2 >= pairs:  # a trainer that was never admitted proves nothing
            bars.append(bar("foreground p99 with training", "x", ours, 1.25, peer="unmanaged", peer_value=unmanaged))
    return {"bench": "kernel", "machine": machine(), "bars": bars, "details": details}


def has_bcc() -> bool:
    """Whether the peer is there."""
    return subprocess.run([SYSTEM_PYTHON, "-c", "import bcc"], check=False, capture_output=True).returncode == 0


def loads(ground: Ground, compiler: str, times: int) -> dict[str, Any]:
    """Medians of loading everything from nothing."""
    found = []
    for _ in range(times):
        ground.detach()
        time.sleep(
            1.0
        )  # the kernel frees the former programs; a tracepoint just left makes the next user wait for that
        found.append(ground.attach(compiler))
    medians = {name: statistics.median(one[name] for one in found) for name in ("load_ms", "wall_ms", "cpu_ms")}
    peak_mb, reader_mb = (
        statistics.median(one[n] for one in found) * 1024 / 1e6 for n in ("peak_kib", "reader_peak_kib")
    )
    return {
        **medians,
        "peak_mb": round(peak_mb, 2),
        "reader_peak_mb": round(reader_mb, 2),
        "programs": found[-1]["programs"],
    }


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    """A TCP server on loopback and its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        server.settimeout(30)
        yield server, int(server.getsockname()[1])


def policy(port: int, *more: str) -> tuple[str, ...]:
    """66 entries and a budget that does not end."""
    rules = [f"127.0.0.1:{port}/tcp", "[2001:db8::/32]:8883/tcp", *(f"192.0.2.{n}:8883/tcp" for n in range(64))]
    return (*(word for rule in rules for word in ("--allow", rule)), "--daily-budget-mib", str(1 << 30), *more)


def packet_ns(ground: Ground, compiler: str, port: int) -> dict[str, float]:
    """Time of a packet that is let through, by BPF_PROG_TEST_RUN; the lowest of several runs: others only slow down.

    An empty program tells how much of it is the test's own.
    """
    ground.attach(compiler, *policy(port))
    loopback = bytes((127, 0, 0, 1))
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1040, 1, 0, 64, 6, 0, loopback, loopback)
    frame = bytes(12) + b"\x08\x00" + head + struct.pack("!HH", 40_000, port) + bytes(1016)
    found: dict[str, list[int]] = {"egress": [], "ingress": [], "an empty program": []}
    with (
        empty_program() as nothing,
        ground.program("fedge_egress") as egress,
        ground.program("fedge_ingress") as ingress,
    ):
        for _ in range(RUNS):  # in turns, so that all see the same machine
            for name, program in zip(found, (egress, ingress, nothing), strict=True):
                found[name].append(test_run_ns(program, frame, REPEAT))
    return {name: min(values) for name, values in found.items()}


def event_ns(ground: Ground, port: int) -> dict[str, float]:
    """Mean ns of real events, the kernel's two clock readings included."""
    names = ("fedge_connect4", "fedge_egress", "fedge_ingress", "fedge_sockops", "fedge_wakeup", "fedge_switch")
    with MapReader(ground.pin_dir) as reader, run_statistics():
        before = {name: ground.statistics(name) for name in names}
        reader.switch_scheduler_probes(on=True)
        subprocess.run(ground.inside(*python(CONNECTS, port)), check=True)
        subprocess.run(python(SWITCHES), check=True)
        reader.switch_scheduler_probes(on=False)
        after = {name: ground.statistics(name) for name in names}
    spent = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in names}
    return {name: round(ns / runs, 1) for name, (ns, runs) in spent.items() if runs}


def pacing(ground: Ground, server: socket.socket, port: int) -> dict[str, Any]:
    """How far a transfer is from its pace after its first second, and what was lost."""
    for _ in range(4096):  # what the connects of before left in the queue
        server.settimeout(0)
        try:
            server.accept()[0].close()
        except BlockingIOError:
            break
    server.settimeout(30)
    ground.attach("object", *policy(port, "--rate-kib-per-s", str(RATE_KIB)))
    sender = subprocess.Popen(
        ground.inside(*python(SENDER, port, TRANSFER_S + 2.0, RETRANSMITS_AT)), stdout=subprocess.PIPE, text=True
    )
    accepted, _ = server.accept()
    with accepted, MapReader(ground.pin_dir) as reader:
        arrivals: list[tuple[float, int]] = []
        begin = time.monotonic()
        while time.monotonic() < begin + TRANSFER_S + 1.0:
            arrivals.append((time.monotonic() - begin, len(accepted.recv(1 << 17))))
        totals = reader.network()
        drops = totals[Counter.DENIED_EGRESS] + totals[Counter.DENIED_BUDGET]
        with contextlib.suppress(OSError):
            while accepted.recv(1 << 17):
                pass
    retransmits = int((sender.communicate(timeout=30)[0] or "0").strip() or 0)
    steady = [(at, size) for at, size in arrivals if at >= 1.0]
    # From the first arrival to the last: bursts of 64 KiB would else be cut.
    rate = sum(size for _, size in steady[1:]) / (steady[-1][0] - steady[0][0])
    error = abs(rate / (RATE_KIB * 1024) - 1) * 100
    return {"kib_per_s": round(rate / 1024, 1), "error_percent": error, "drops": drops, "retransmits": retransmits}


def telemetry_share(ground: Ground) -> dict[str, float]:
    """CPU of the daemon's windows, as a share of a core: one every ten seconds."""
    telemetry = Telemetry(ground.pin_dir)
    begin, times = time.process_time(), 200
    for _ in range(times):
        telemetry.window()
    window_ms = (time.process_time() - begin) / times * 1000
    telemetry.close()
    return {"window_ms": round(window_ms, 3), "percent_of_a_core": window_ms / 10_000 * 100}


class Trainers:
    """Busy processes that stand for the training worker."""

    def __init__(self, count: int = TRAINERS, script: str = BUSY) -> None:
        self.processes = [subprocess.Popen(python(script)) for _ in range(count)]

    def stop(self) -> None:
        """Holds them, all at once."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        """Lets them run."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kills and waits."""
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def managed(
    ground: Ground,
    decisions: list[tuple[float, Decision]],
    policy: AdmissionPolicy = POLICY,
    workers: int = WORKERS,
) -> AsyncIterator[WorkerControl]:
    """Our trainer: admitted, watched, frozen and thawed as on a device, from the kernel's run-queue latency on."""
    control = WorkerControl(ground.cgroup, name=f"worker-{time.monotonic_ns()}")
    control.prepare()
    trainers = Trainers(workers, TRAINING)
    for process in trainers.processes:
        control.adopt(process.pid)
    control.freeze()
    with MapReader(ground.pin_dir) as reader:
        controller = AdmissionController(
            SignalSampler(run_queue=reader.run_queue),
            policy,
            SystemClock(),
            publish=lambda decision: decisions.append((time.monotonic(), decision)),
            probes=lambda on: reader.switch_scheduler_probes(on=on),
        )
        running = asyncio.create_task(controller.run())
        starting = asyncio.create_task(_start_when_admitted(controller, control, decisions))
        try:
            controller.seek()
            yield control
        finally:
            starting.cancel()
            controller.finish()
            running.cancel()
            await asyncio.gather(running, starting, return_exceptions=True)
            control.kill()
            trainers.end()
            control.close()


async def _start_when_admitted(
    controller: AdmissionController, control: WorkerControl, decisions: list[tuple[float, Decision]]
) -> None:
    await _until(decisions, State.ADMITTED, 3600)
    control.thaw()
    controller.start(control, time.monotonic() + 3600)


async def _until(
    decisions: list[tuple[float, Decision]], state: State, timeout_s: float, since: int = 0
) -> float | None:
    """When that state was reached after decision number `since`; None when it was not in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for at, decision in decisions[since:]:
            if decision.state is state:
                return at
        await asyncio.sleep(0.005)
    return None


async def react(ground: Ground) -> dict[str, Any]:
    """How soon training pauses once a load begins, and goes on once it ends; None on a machine that is never quiet."""
    ground.attach("object")
    load = Trainers(4 * TRAINERS)  # there before it is needed, so that it begins at one moment
    try:
        await asyncio.sleep(1)
        load.stop()
        found = await policy_for(ground)
        policy = dataclasses.replace(found, cpu_some=_NEVER, memory_some=_NEVER, io_some=_NEVER)
        return await _reactions(ground, policy, load)  # by run-queue latency alone
    finally:
        load.end()


async def _reactions(ground: Ground, policy: AdmissionPolicy, load: Trainers) -> dict[str, Any]:
    marks = policy.run_queue_p95_us
    pauses: list[float] = []
    resumes: list[float] = []
    reasons: list[str] = []
    decisions: list[tuple[float, Decision]] = []
    async with managed(ground, decisions, policy):
        for _ in range(9):
            mark = len(decisions)
            standing = decisions[-1][1].state if decisions else None
            if standing is not State.RUNNING and await _until(decisions, State.RUNNING, 30, mark) is None:
                break
            mark = len(decisions)
            begin = time.monotonic()
            load.go()
            paused = await _until(decisions, State.PAUSED, 10, mark)
            reasons += [d.reason.value for _, d in decisions[mark:] if d.state is State.PAUSED][:1]
            end = time.monotonic()
            load.stop()
            if paused is not None:
                pauses.append((paused - begin) * 1000)
                resumed = await _until(decisions, State.RUNNING, 30, mark)
                if resumed is not None:
                    resumes.append((resumed - end) * 1000)
    return {
        "pause_ms": round(statistics.median(pauses), 1) if pauses else None,
        "resume_ms": round(statistics.median(resumes), 1) if resumes else None,
        "pauses": len(pauses),
        "all_pause_ms": [round(pause) for pause in pauses],
        "marks_us": [round(marks.low), round(marks.high)],
        "reasons": reasons,
    }


async def policy_for(ground: Ground) -> AdmissionPolicy:
    """The default marks on a quiet machine; on one that others keep busy, marks above what they cause."""
    busiest_us = await run_queue_p95_us(ground, 15)
    if busiest_us <= POLICY.run_queue_p95_us.low:
        return POLICY
    marks = Mark(1.5 * busiest_us, 2.0 * busiest_us)
    return dataclasses.replace(POLICY, run_queue_p95_us=marks, cpu_some=_NEVER, memory_some=_NEVER, io_some=_NEVER)


async def run_queue_p95_us(ground: Ground, windows: int) -> float:
    """The highest of so many windows, as admission sees them."""
    highest = 0.0
    with MapReader(ground.pin_dir) as reader:
        reader.switch_scheduler_probes(on=True)
        before = reader.run_queue()
        for _ in range(windows):
            await asyncio.sleep(POLICY.window_s)
            now = reader.run_queue()
            highest = max(highest, percentile_us(difference(now, before), 0.95) or 0.0)
            before = now
        reader.switch_scheduler_probes(on=False)
    return highest


async def foreground(ground: Ground, pairs: int, seconds: float) -> dict[str, Any]:
    """Latency of the foreground task in interleaved runs; of each pair the ratio of p99 to that without a trainer.

    `crowd` is ours with two workers a CPU, which no device runs: it leaves no CPU idle.
    """
    modes = ("none", "unmanaged", "ours", "crowd")
    p50: dict[str, list[float]] = {mode: [] for mode in modes}
    p99: dict[str, list[float]] = {mode: [] for mode in modes}
    trained_s = []
    policy = await policy_for(ground)
    for number in range(pairs):
        order = list(modes)
        random.Random(number).shuffle(order)  # noqa: S311 - an order, no secret
        for mode in order:
            late, used_s = await one_run(ground, mode, seconds, policy)
            p50[mode].append(statistics.median(late) * 1000)
            p99[mode].append(statistics.quantiles(late, n=100)[98] * 1000)
            if mode == "ours":
                trained_s.append(used_s)
    ratios = {mode: interval([a / b for a, b in zip(p99[mode], p99["none"], strict=True)]) for mode in modes[1:]}
    return {
        "pairs": pairs,
        "marks_us": [round(policy.run_queue_p95_us.low), round(policy.run_queue_p95_us.high)],
        "p50_ms": {mode: round(statistics.median(values), 3) for mode, values in p50.items()},
        "p99_ms": {mode: round(statistics.median(values), 3) for mode, values in p99.items()},
        "p99_ratio_to_none": ratios,
        "our_trainers_cpu_s_a_run": round(statistics.median(trained_s), 2),
        "runs_with_training": sum(used_s > _TRAINED_SHARE * seconds for used_s in trained_s),
    }


async def one_run(ground: Ground, mode: str, seconds: float, policy: AdmissionPolicy) -> tuple[list[float], float]:
    """Lateness of every period in s, and the CPU time of our trainer."""
    if mode in ("ours", "crowd"):
        decisions: list[tuple[float, Decision]] = []
        workers = WORKERS if mode == "ours" else TRAINERS
        async with managed(ground, decisions, policy, workers) as control:
            await _until(decisions, State.RUNNING, 2)
            before_s = control.cpu_seconds() or 0.0
            late = await _latencies(seconds)
            return late, (control.cpu_seconds() or 0.0) - before_s
    trainers = Trainers(0 if mode == "none" else WORKERS)
    try:
        return await _latencies(seconds), 0.0
    finally:
        trainers.end()


async def _latencies(seconds: float) -> list[float]:
    process = await asyncio.create_subprocess_exec(*python(FOREGROUND, seconds), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    found: list[float] = json.loads(out)
    return found


def interval(values: list[float]) -> dict[str, float]:
    """The median and its 95 % interval by order statistics (binomial)."""
    ordered, count = sorted(values), len(values)
    reach = round(0.98 * count**0.5)
    low, high = max((count - 1) // 2 - reach, 0), min(count // 2 + reach, count - 1)
    return {"median": statistics.median(ordered), "low": round(ordered[low], 3), "high": round(ordered[high], 3)}


if __name__ == "__main__":
    raise SystemExit(main())
