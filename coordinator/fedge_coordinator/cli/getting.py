"""`fedgectl get`: list what there is, once or for as long as one watches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from fedge_coordinator.api.views import DeviceView, Event
from fedge_coordinator.cli.client import ApiClient
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.cli.listings import CHECKPOINTS, DEVICES, JOBS, REWARDS, ROUNDS
from fedge_coordinator.cli.options import output_option, socket_option
from fedge_coordinator.cli.rendering import Listing, Output, as_yaml

_RowT = TypeVar("_RowT", bound=msgspec.Struct)
_CommandT = TypeVar("_CommandT", bound=Callable[..., None])


def _watch_option(command: _CommandT) -> _CommandT:
    return click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")(command)


def _job_option(command: _CommandT) -> _CommandT:
    return click.option("-j", "--job", help="Of this job only.")(command)


@click.group()
def get() -> None:
    r"""List jobs, rounds, devices, checkpoints or rewards.

    \b
    Examples:
      fedgectl get jobs
      fedgectl get rounds --job digits --watch
      fedgectl get devices -o wide
    """


@get.command()
@click.argument("names", nargs=-1)
@_watch_option
@output_option()
@socket_option
def jobs(names: tuple[str, ...], watch: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""List jobs.

    \b
    Examples:
      fedgectl get jobs
      fedgectl get jobs digits -o yaml
      fedgectl get jobs --watch
    """
    with ApiClient(socket) as client:
        _list(client, JOBS, lambda: [client.job(name) for name in names] if names else client.jobs(), watch, output)


@get.command()
@_job_option
@_watch_option
@output_option()
@socket_option
def rounds(job: str | None, watch: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""List rounds, the oldest first.

    \b
    Examples:
      fedgectl get rounds
      fedgectl get rounds --job digits --watch
    """
    with ApiClient(socket) as client:
        _list(client, ROUNDS, lambda: client.rounds(job), watch, output)


@get.command()
@_watch_option
@output_option()
@socket_option
def devices(watch: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""List devices that were ever seen.

    \b
    Examples:
      fedgectl get devices
      fedgectl get devices -o json | jq '.[] | select(.online) | .device'
    """
    with ApiClient(socket) as client:
        _list(client, DEVICES, client.devices, watch, output)


@get.command()
@_job_option
@_watch_option
@output_option()
@socket_option
def checkpoints(job: str | None, watch: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""List the models that rounds made, and where they were settled.

    \b
    Examples:
      fedgectl get checkpoints --job digits
      fedgectl get checkpoints -o wide
    """
    with ApiClient(socket) as client:
        _list(client, CHECKPOINTS, lambda: client.checkpoints(job), watch, output)


@get.command()
@_job_option
@_watch_option
@output_option()
@socket_option
def rewards(job: str | None, watch: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""List what accounts have earned and been paid, in token units.

    \b
    Examples:
      fedgectl get rewards
      fedgectl get rewards --job digits -o json
    """
    with ApiClient(socket) as client:
        _list(client, REWARDS, lambda: client.rewards(job), watch, output)


def _list(
    client: ApiClient,
    listing: Listing[_RowT],
    read: Callable[[], list[_RowT]],
    watch: bool,  # noqa: FBT001 - handed through
    output: Output,
) -> None:
    if not watch:
        listing.show(read(), output)
        return
    # the stream first, the state second: nothing can happen unseen in between
    phases: dict[object, object] = {}
    known: dict[str, _RowT] = {}
    for event in client.events(ready=lambda: _show_changed(listing, read(), known, output)):
        if _matters(event, phases):
            _show_changed(listing, read(), known, output)
    raise CommandError(ExitCode.UNREACHABLE, "the coordinator stopped", "start it again, then watch again")


def _matters(event: Event, phases: dict[object, object]) -> bool:
    """Whether something that is listed can have changed: an accepted message alone changes nothing."""
    if event.name != "input":
        return True
    job, phase = event.fields.get("job"), event.fields.get("phase")
    changed = phases.get(job) != phase
    phases[job] = phase
    return changed


def _show_changed(listing: Listing[_RowT], rows: Sequence[_RowT], known: dict[str, _RowT], output: Output) -> None:
    changed = [row for row in rows if known.get(listing.name(row)) != _still(row)]
    first = not known
    known |= {listing.name(row): _still(row) for row in rows}
    if output is Output.JSON:
        for row in changed:
            click.echo(msgspec.json.encode(row))
    elif output is Output.YAML:
        for row in changed:
            click.echo(f"---\n{as_yaml(row)}", nl=False)
    elif changed:
        listing.show(changed, output, titles=first)


def _still(row: _RowT) -> _RowT:
    """The row without what changes all the time."""
    return msgspec.structs.replace(row, last_seen_ms=0) if isinstance(row, DeviceView) else row
