"""How `fedgectl` fails: an exit code, the cause and the cure."""

from enum import IntEnum
from typing import IO, Any

import click


class ExitCode(IntEnum):
    """Documented in `fedgectl --help`; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    REFUSED = 5
    INTERRUPTED = 130


class CommandError(click.ClickException):
    """What the operator is told. `lines` are further facts, such as the faults of a document."""

    def __init__(self, code: ExitCode, cause: str, cure: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(cause)
        self.code = code
        self.cure = cure
        self.lines = lines

    def show(self, file: IO[Any] | None = None) -> None:
        """Print cause, facts and cure to standard error."""
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=True)
        for line in self.lines:
            click.echo(f"  {line}", file=file, err=True)
        click.echo(f"{click.style('cure:', bold=True)} {self.cure}", file=file, err=True)
