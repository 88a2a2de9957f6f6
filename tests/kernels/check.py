"""Tries the kernel layer on the kernel that this machine booted: one line `RESULT name ok|what went wrong` a step."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from fedge_agent.kernel.doctor import refusals
from fedge_agent.kernel.features import FEATURES, Source
from fedge_agent.kernel.reader import DenialStream, MapReader
from fedge_agent.kernel.records import Counter, DenialReason
from fedge_agent.kernel.selftest import run_selftest
from fedge_agent.kernel.telemetry import Telemetry

PINS, CGROUP, CONFIG = Path("/sys/fs/bpf/fedge"), Path("/sys/fs/cgroup/fedge"), Path("/agent.toml")
ALLOWED, FORBIDDEN = 18883, 18884
LIMIT_MIB = 1


def fedge_bpf(*arguments: str) -> dict[str, object]:
    """What the real loader reports."""
    command = [sys.executable, "-m", "fedge_agent.kernel.loader", *arguments, "-o", "json", "--config", str(CONFIG)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"fedge-bpf {arguments[0]}: {done.returncode} {done.stderr}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def serve() -> None:
    """Listens on both ports and reads whatever comes, in a process that is not guarded."""
    servers = [socket.create_server(("127.0.0.1", port)) for port in (ALLOWED, FORBIDDEN)]
    if os.fork():
        for server in servers:
            server.close()
        return
    sources = list(servers)
    while True:
        for ready in select.select(sources, [], [])[0]:
            if ready in servers:
                sources.append(ready.accept()[0])
            elif not ready.recv(1 << 20):
                sources.remove(ready)


def connect(port: int) -> socket.socket:
    """A connection over loopback."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def attach() -> str:
    """Every program of the table is attached by the object, without any capability left."""
    report = fedge_bpf("attach", "--cgroup", str(CGROUP), "--object-dir", "/bpf", "--compiler", "object")
    programs = report["programs"]
    if not isinstance(programs, list):
        return "no list of programs"
    wrong = [f"{p['name']}: {p['detail']}" for p in programs if p["state"] != "attached"]
    return "; ".join(wrong) or ("" if report["capabilities"] == 0 else "capabilities are left")


def refuse() -> str:
    """Forbidden peers get EPERM from inside the cgroup, and the kernel tells of them."""
    with MapReader(PINS) as reader, DenialStream(PINS) as stream:
        result = run_selftest(lambda: refusals(reader))
        events = stream.take()
    return "" if result.enforced and len(events) >= 2 else f"{result.detail}; {len(events)} events"


def admit_and_pace() -> str:
    """An allowed peer is reached, at the pace of the policy."""
    with connect(ALLOWED) as one:
        pace = one.getsockopt(socket.SOL_SOCKET, 47)
    return "" if pace == 512 * 1024 else f"SO_MAX_PACING_RATE is {pace}"


def spend() -> str:
    """A transfer ends at the budget, and the reason is told."""
    deadline_s = time.monotonic() + 120
    with connect(ALLOWED) as one, MapReader(PINS) as reader, DenialStream(PINS) as stream:
        one.settimeout(0)
        rest = bytes(3 * LIMIT_MIB << 20)
        while not (denied := reader.network()[Counter.DENIED_BUDGET]) and time.monotonic() < deadline_s:
            with contextlib.suppress(BlockingIOError):
                rest = rest[one.send(rest) :]
            time.sleep(0.05)
        budget, reasons = reader.budget(), {event.reason for event in stream.take()}
    good = denied and budget is not None and budget.left_bytes < 1 << 17 and DenialReason.BUDGET_SPENT in reasons
    return "" if good else f"{denied} packets denied, {budget}, {reasons}"


def feel() -> str:
    """All features but those that need events to happen come from the kernel."""
    with MapReader(PINS) as reader:
        reader.switch_scheduler_probes(on=True)
        telemetry = Telemetry(PINS)
        for _ in range(3):
            subprocess.run(["/bin/true"], check=True)
        for _ in range(200):
            time.sleep(0.001)
        vector = telemetry.window()
        reader.switch_scheduler_probes(on=False)
    sources = dict(zip(FEATURES, vector.sources, strict=True))
    wanted = ("execs_per_s", "retransmits_per_s", "reclaims_per_s", "oom_kills_per_s", "run_queue_us", "denials_per_s")
    wrong = [name for name in (*wanted, "cpu_some") if sources[name] is not Source.KERNEL]
    return f"not from the kernel: {wrong}" if wrong else ""


def again() -> str:
    """A second attach updates in place and keeps the spent budget; refresh changes the policy; detach opens."""
    attach()
    with MapReader(PINS) as reader:
        budget = reader.budget()
    if budget is None or budget.left_bytes > 1 << 17:
        return f"the budget came back: {budget}"
    CONFIG.write_text('[kernel]\nallow = []\nnetwork = "audit"\n')
    fedge_bpf("refresh")
    connect(FORBIDDEN).close()
    fedge_bpf("detach")
    return f"pins are left: {list(PINS.iterdir())}" if PINS.exists() else ""


def main() -> None:
    """Runs every step, from inside the guarded cgroup."""
    CONFIG.write_text(
        f'[kernel]\nallow = ["127.0.0.1:{ALLOWED}/tcp"]\nrate_kib_per_s = 512\ndaily_budget_mib = {LIMIT_MIB}\n'
    )
    serve()
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
    steps = (attach, refuse, admit_and_pace, feel, spend, again)
    for step in steps:
        try:
            wrong = step()
        except Exception as error:  # noqa: BLE001 - the line tells it
            wrong = repr(error)
        sys.stdout.write(f"RESULT {step.__name__} {wrong or 'ok'}\n")
        sys.stdout.flush()


main()
