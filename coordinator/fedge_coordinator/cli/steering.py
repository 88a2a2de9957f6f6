"""`fedgectl pause`, `resume` and `cancel`."""

from pathlib import Path

import click

from fedge_coordinator.cli.client import ApiClient
from fedge_coordinator.cli.options import confirm, socket_option, yes_option
from fedge_coordinator.cli.rendering import warn


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[job] NAME")
@socket_option
def pause(words: tuple[str, ...], socket: Path) -> None:
    r"""Let the open round of a job end, and open no other until it is resumed.

    \b
    Examples:
      fedgectl pause job digits
      fedgectl pause digits
    """
    _steer(job_name(words), "pause", socket)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[job] NAME")
@socket_option
def resume(words: tuple[str, ...], socket: Path) -> None:
    r"""Open rounds of a paused or failed job again.

    \b
    Example:
      fedgectl resume job digits
    """
    _steer(job_name(words), "resume", socket)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[job] NAME")
@yes_option
@socket_option
def cancel(words: tuple[str, ...], yes: bool, socket: Path) -> None:  # noqa: FBT001 - click
    r"""Abort the open round of a job and end it for good. Its checkpoints stay.

    \b
    Examples:
      fedgectl cancel job digits
      fedgectl cancel job digits --yes
    """
    name = job_name(words)
    confirm(f"Cancel job {name}?", yes=yes)
    _steer(name, "cancel", socket)


def job_name(words: tuple[str, ...]) -> str:
    """`job digits`, `job/digits` or `digits` as `digits`.

    Raises:
        click.UsageError: anything else.
    """
    match words:
        case ("job", name) | (name,):
            return name.removeprefix("job/")
        case _:
            raise click.UsageError(f"expected one job, got {' '.join(words)!r}; write: job NAME")


def _steer(name: str, action: str, socket: Path) -> None:
    with ApiClient(socket) as client:
        job = client.steer(name, action)
    for text in job.warnings:
        warn(f"job {name}: {text}")
    click.echo(f"job/{name} {job.status}")
