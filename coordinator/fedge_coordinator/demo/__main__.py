"""`python -m fedge_coordinator.demo`: what `scripts/demo` runs once everything is installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import httpx

from fedge_coordinator.demo import summary as summaries
from fedge_coordinator.demo.display import Display
from fedge_coordinator.demo.kernel import PRIVATE_MOUNTS
from fedge_coordinator.demo.observing import Api, EventFeed
from fedge_coordinator.demo.processes import DemoError, run
from fedge_coordinator.demo.programs import find, program
from fedge_coordinator.demo.scenario import Scenario
from fedge_coordinator.demo.stage import JOB, Builder, Options, Stage

_INTERRUPTED = 130
_POLL_S = 0.2
_ROUND_TIMEOUT_S = 90.0
_SETTLE_TIMEOUT_S = 60.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--devices", type=click.IntRange(4, 16), default=8, show_default=True, help="Agents, a process each.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Repeats data and faults.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json to standard output.")
@click.option("--keep", is_flag=True, help="Keep the working folder: logs, databases, published records.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
def main(rounds: int, devices: int, seed: int, *, as_json: bool, keep: bool, out: Path) -> None:
    r"""Run the whole of Fedge on this machine, for real, and clean up.

    Mosquitto with TLS, a chain, a coordinator and eight agents learn from smart-watch recordings; one agent is
    killed in mid-round, one joins late, one is paused. Nothing leaves the machine.

    \b
    Examples:
      scripts/demo
      scripts/demo --rounds 20 --seed 3
      scripts/demo --json --keep
    """
    _own_mounts()
    signal.signal(signal.SIGTERM, _interrupted)
    folder = Path(tempfile.mkdtemp(prefix="fedge-demo-"))
    try:
        found, rounds_done = _play(folder, Options(rounds, devices, seed))
        path, plot = summaries.write(found, rounds_done, out)
    except KeyboardInterrupt:
        click.echo("interrupted; everything was stopped", err=True)
        sys.exit(_INTERRUPTED)
    except (DemoError, httpx.HTTPError) as error:
        keep = True
        click.echo(f"scripts/demo: {error}\nlogs are kept in {folder / 'logs'}", err=True)
        sys.exit(1)
    finally:
        if keep:
            click.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(summaries.text(found, path, plot), err=as_json)
    if as_json:
        click.echo(json.dumps(found))


def _play(folder: Path, options: Options) -> tuple[dict[str, Any], list[Any]]:
    with Display(options.rounds) as display:
        builder = Builder(folder, options, display.say)
        try:
            stage = builder.build()
            return _rounds(stage, display)
        finally:
            display.say("stopping everything")
            builder.stage.close()


def _rounds(stage: Stage, display: Display) -> tuple[dict[str, Any], list[Any]]:
    for part, reason in stage.parts_off.items():
        display.say(f"off: {part}: {reason}")
    api, options = Api(stage.socket), stage.options
    scenario = Scenario(stage.devices, stage.children, api, options.seed, options.rounds, display.say)
    feed = EventFeed(stage.socket, scenario.take)
    feed.start()
    try:
        display.say(f"starting {len(stage.devices) - 1} agents; device {scenario.late.number} will join late")
        scenario.start_devices()
        _wait_online(stage, api, len(stage.devices) - 1)
        run([program("fedgectl"), "apply", "--socket", str(stage.socket), "-f", str(stage.folder / "job.yaml")])
        display.watch(stage.devices, scenario.tally)
        _wait_finished(stage, scenario)
        display.say("settling: one reward epoch, every claim relayed")
        _wait_settled(stage, scenario, api)
        display.say("auditing records, checkpoints and rewards")
        audit = _audit(stage)
        return summaries.collect(stage, scenario, api, audit), scenario.tally.rounds
    finally:
        feed.close()
        api.close()


def _wait_online(stage: Stage, api: Api, count: int) -> None:
    deadline = time.monotonic() + _ROUND_TIMEOUT_S
    while sum(device["online"] and device["prekeysFresh"] > 0 for device in api.get("/v1/devices")) < count:
        _check(stage)
        if time.monotonic() > deadline:
            raise DemoError(f"not all {count} agents came online within {_ROUND_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _wait_finished(stage: Stage, scenario: Scenario) -> None:
    done, deadline = 0, time.monotonic() + _ROUND_TIMEOUT_S
    while not scenario.tally.finished:
        _check(stage)
        if scenario.tally.failed:
            raise DemoError(f"the job failed: {scenario.tally.failed}")
        if len(scenario.tally.rounds) > done:
            done, deadline = len(scenario.tally.rounds), time.monotonic() + _ROUND_TIMEOUT_S
        if time.monotonic() > deadline:
            raise DemoError(f"round {done + 1} did not finish within {_ROUND_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _wait_settled(stage: Stage, scenario: Scenario, api: Api) -> None:
    spec: Any = stage.job_document["spec"]
    pool = int(spec["rewards"]["perRound"]) * len(scenario.tally.rounds)
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while True:
        _check(stage)
        paid = sum(int(entry["paid"]) for entry in api.get(f"/v1/rewards?job={JOB}"))
        settled = all(entry["txHash"] for entry in api.get(f"/v1/checkpoints?job={JOB}")) or "chain" in stage.parts_off
        if paid == pool and settled:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"paid {paid} of {pool} within {_SETTLE_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _audit(stage: Stage) -> dict[str, Any]:
    command = [program("fedgectl"), "audit", JOB, "--published", str(stage.published)]
    command += ["-f", str(stage.folder / "job.yaml"), "-o", "json", "--socket", str(stage.socket)]
    if stage.chain_url is not None:
        command += ["--rpc", stage.chain_url, "--manifest", str(stage.manifest)]
    found = json.loads(run(command))
    statuses = [finding["status"] for finding in found["findings"]]
    return {"passed": statuses.count("ok"), "failed": statuses.count("fail")}


def _check(stage: Stage) -> None:
    if stage.coordinator is not None:
        stage.coordinator.check()


def _own_mounts() -> None:
    """As root, move to a mount namespace of our own: what the demo mounts is gone with it."""
    unshare = find("unshare")
    if os.geteuid() != 0 or os.environ.get(PRIVATE_MOUNTS) or unshare is None:
        return
    apart = [unshare, "--mount", "--propagation", "private"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:  # noqa: S603 - only asked
        return  # as in a chroot, whose root is no mount
    command = [*apart, sys.executable, "-m", "fedge_coordinator.demo", *sys.argv[1:]]
    os.execve(unshare, command, {**os.environ, PRIVATE_MOUNTS: "1"})  # noqa: S606 - ourselves


def _interrupted(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
