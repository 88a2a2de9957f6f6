"""`fedgectl describe`: everything about one thing."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from fedge_coordinator.api.views import CheckpointView, DeviceView, JobView, RoundView
from fedge_coordinator.cli.client import ApiClient
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.cli.listings import DUPLICATES, device_status, network_guard
from fedge_coordinator.cli.options import output_option, socket_option
from fedge_coordinator.cli.rendering import (
    Output,
    age,
    as_yaml,
    cohort,
    numbers,
    or_dash,
    print_facts,
    structured,
)
from fedge_protocol.health import NETWORK_UNGUARDED
from fedge_protocol.jobspec import SECURE_FLOOR


@click.group()
def describe() -> None:
    r"""Show everything about one job, round or device.

    \b
    Examples:
      fedgectl describe job digits
      fedgectl describe round digits/3
      fedgectl describe device 1f0c8a
    """


@describe.command()
@click.argument("name")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@socket_option
def job(name: str, output: Output, socket: Path) -> None:
    r"""Show a job: where it stands, its last numbers, its document.

    \b
    Examples:
      fedgectl describe job digits
      fedgectl describe job digits -o json
    """
    with ApiClient(socket) as client:
        found = client.job(name.removeprefix("job/"))
    _show(found, output, _job_facts(found))


@describe.command("round")
@click.argument("name", metavar="JOB/ROUND[/ATTEMPT]")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@socket_option
def round_command(name: str, output: Output, socket: Path) -> None:
    r"""Show a round: its last attempt, or the one named.

    \b
    Examples:
      fedgectl describe round digits/3
      fedgectl describe round digits/3/0
    """
    job_name, number, attempt = _round_name(name.removeprefix("round/"))
    with ApiClient(socket) as client:
        attempts = [
            each
            for each in client.rounds(job_name)
            if each.round == number and (attempt is None or each.attempt == attempt)
        ]
        models = [each for each in client.checkpoints(job_name) if each.round == number]
    if not attempts:
        raise CommandError(ExitCode.NOT_FOUND, f"there is no round {name}", f"see: fedgectl get rounds -j {job_name}")
    found = attempts[-1]
    _show(found, output, _round_facts(found, models[0] if models else None))


@describe.command()
@click.argument("name", metavar="DEVICE")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@socket_option
def device(name: str, output: Output, socket: Path) -> None:
    r"""Show a device; the beginning of its id is enough when it is the only one.

    \b
    Examples:
      fedgectl describe device 1f0c8a
    """
    with ApiClient(socket) as client:
        found = one_device(client, name)
    _show(found, output, _device_facts(found))


def one_device(client: ApiClient, name: str) -> DeviceView:
    """The device whose id begins so.

    Raises:
        CommandError: there is none, or more than one.
    """
    beginning = name.removeprefix("device/")
    found = [each for each in client.devices() if each.device.startswith(beginning)]
    exact = [each for each in found if each.device == beginning]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise CommandError(ExitCode.USAGE, f"{len(found)} devices begin with {beginning!r}", "give more of the id")
    raise CommandError(
        ExitCode.NOT_FOUND, f"no device begins with {beginning!r}", "see those that were seen: fedgectl get devices"
    )


def _show(found: JobView | RoundView | DeviceView, output: Output, facts: list[tuple[str, str]]) -> None:
    if not structured(found, output):
        print_facts(facts)


def _job_facts(job: JobView) -> list[tuple[str, str]]:
    facts = [
        ("Name", job.name),
        ("Status", f"{job.status}{f': {job.reason}' if job.reason else ''}"),
        ("Rounds", f"{job.next_round - 1} of {job.rounds} done"),
        ("Phase", or_dash(job.phase)),
        ("Metrics", numbers(job.metrics)),
        ("Cohort", cohort(job.cohort_minimum, job.cohort_target, below=job.below_secure_floor)),
        ("Model", or_dash(job.weights)),
        ("Graph", or_dash(job.graph)),
        ("Spec hash", job.spec_hash),
        ("Created", _moment(job.created_at_ms)),
        ("Updated", _moment(job.updated_at_ms)),
    ]
    facts += [("Warning", text) for text in job.warnings]
    return [*facts, ("Document", "\n" + as_yaml(job.document))]


def _round_facts(found: RoundView, model: CheckpointView | None) -> list[tuple[str, str]]:
    facts = [
        ("Job", found.job),
        ("Round", f"{found.round}, attempt {found.attempt}"),
        ("Status", str(found.status)),
        ("Phase", or_dash(found.phase)),
        ("Opened", _moment(found.opened_at_ms)),
        ("Closed", "-" if found.closed_at_ms is None else _moment(found.closed_at_ms)),
        ("Participants", or_dash(found.participants)),
        ("Drop-outs", or_dash(found.dropouts)),
        ("Bytes up", or_dash(found.bytes_up)),
        ("Metrics", numbers(found.metrics)),
    ]
    if model is not None:
        facts += [
            ("Model", model.weights),
            ("Checkpoint", or_dash(model.checkpoint)),
            ("Transaction", or_dash(model.tx_hash)),
        ]
    if found.below_secure_floor:
        facts.append(("Warning", f"the job's cohort is below the secure floor of {SECURE_FLOOR}"))
    return facts


def _device_facts(found: DeviceView) -> list[tuple[str, str]]:
    refusal = "-"
    if found.refusal is not None:
        detail = f": {found.refusal.detail}" if found.refusal.detail else ""
        refusal = f"{found.refusal.reason}{detail} ({_moment(found.refusal.at_ms)})"
    duplicate: list[tuple[str, str]] = []
    if found.duplicate is not None:
        why = DUPLICATES.get(found.duplicate.reason, found.duplicate.reason)
        duplicate = [
            ("Duplicate", f"{why} ({_moment(found.duplicate.since_ms)})"),
            ("Cure", "on each copy: fedge-agent leave --offline --discard-rewards; see docs/operations.md"),
            ("", f"when they are gone, or disk or board was changed: fedgectl devices accept {found.device}"),
        ]
    return [
        ("Device", found.device),
        ("Status", device_status(found)),
        *duplicate,
        ("State", or_dash(found.state)),
        ("Version", or_dash(found.version)),
        ("Network", network_guard(found)),
        ("Missing features", f"{found.missing_features & ~NETWORK_UNGUARDED:#x}"),
        ("First seen", _moment(found.first_seen_ms)),
        ("Last seen", _moment(found.last_seen_ms)),
        ("Last refusal", refusal),
        ("Fresh prekeys", str(found.prekeys_fresh)),
    ]


def _round_name(name: str) -> tuple[str, int, int | None]:
    job_name, *numbers_of = name.split("/")
    if len(numbers_of) not in (1, 2) or not all(each.isascii() and each.isdecimal() for each in numbers_of):
        raise click.UsageError(f"{name!r} names no round; write JOB/ROUND or JOB/ROUND/ATTEMPT, such as digits/3")
    return job_name, int(numbers_of[0]), int(numbers_of[1]) if numbers_of[1:] else None


def _moment(at_ms: int) -> str:
    then = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{then:%Y-%m-%d %H:%M:%S} UTC ({age(at_ms, time.time_ns() // 1_000_000)} ago)"
