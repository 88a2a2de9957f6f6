"""Options that several commands share."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fedge_coordinator.cli.rendering import Output

DEFAULT_SOCKET: Final = Path("/run/fedge-coordinator/api.sock")
DEFAULT_CA_SOCKET: Final = Path("/var/lib/fedge-ca/ca.sock")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `24h` or `7d`, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The seconds, or a usage error."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 24h or 7d", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


def socket_option(command: _CommandT) -> _CommandT:
    """`--socket PATH`: where the coordinator listens."""
    return click.option(
        "--socket",
        "socket",
        type=click.Path(path_type=Path),
        default=DEFAULT_SOCKET,
        show_default=True,
        envvar="FEDGE_SOCKET",
        show_envvar=True,
        help="The coordinator's Unix socket.",
    )(command)


def ca_option(command: _CommandT) -> _CommandT:
    """`--ca-socket PATH`: where the fleet's CA listens."""
    return click.option(
        "--ca-socket",
        "ca_socket",
        type=click.Path(path_type=Path),
        default=DEFAULT_CA_SOCKET,
        show_default=True,
        envvar="FEDGE_CA_SOCKET",
        show_envvar=True,
        help="The Unix socket of the fleet's CA (fedge-ca run).",
    )(command)


def output_option(*choices: Output) -> Callable[[_CommandT], _CommandT]:
    """`-o`: by default every format."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([str(choice) for choice in choices or tuple(Output)]),
        callback=lambda _context, _parameter, value: Output(value),
        default=str(Output.TABLE),
        show_default=True,
        help="Format.",
    )


def yes_option(command: _CommandT) -> _CommandT:
    """`--yes`: do not ask back."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask back.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal, `--yes` is required."""
    if yes:
        return
    if not os.isatty(0):
        raise click.UsageError(f"{question} This cannot be undone: add --yes to say so without a terminal.")
    click.confirm(f"{question} This cannot be undone.", abort=True)
