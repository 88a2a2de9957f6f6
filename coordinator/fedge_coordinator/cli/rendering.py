"""How answers are shown: tables for people; JSON, YAML and names for programs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

import click
import msgspec
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedge_protocol.jobspec import SECURE_FLOOR

_UNBOUNDED: Final = 10_000
_RowT = TypeVar("_RowT", bound=msgspec.Struct)
_STYLES: Final = {
    "running": "green",
    "finished": "green",
    "online": "green",
    "open": "cyan",
    "pending": "cyan",
    "paused": "yellow",
    "offline": "yellow",
    "aborted": "red",
    "failed": "red",
    "cancelled": "red",
    "revoked": "red",
    "ok": "green",
    "fail": "red",
    "unchecked": "yellow",
}


class Output(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True)
class Column(Generic[_RowT]):
    """One column of a table; `wide` columns only show with `-o wide`."""

    title: str
    cell: Callable[[_RowT], str]
    wide: bool = False


@dataclass(frozen=True)
class Listing(Generic[_RowT]):
    """How one kind of thing is listed: its word, its name, its columns."""

    kind: str
    name: Callable[[_RowT], str]
    columns: tuple[Column[_RowT], ...]
    nothing: str

    def show(self, rows: Sequence[_RowT], output: Output, *, titles: bool = True) -> None:
        """Print rows to standard output; without `titles` they continue a table."""
        match output:
            case Output.JSON:
                click.echo(as_json(rows))
            case Output.YAML:
                click.echo(as_yaml(rows), nl=False)
            case Output.NAME:
                for row in rows:
                    click.echo(f"{self.kind}/{plain(self.name(row))}")
            case _ if not rows and titles:
                click.echo(self.nothing, err=True)
            case _:
                columns = [column for column in self.columns if output is Output.WIDE or not column.wide]
                print_table(
                    [column.title for column in columns],
                    [[column.cell(row) for column in columns] for row in rows],
                    titles=titles,
                )


def print_table(titles_of: Sequence[str], rows: Sequence[Sequence[str]], *, titles: bool = True) -> None:
    """A table without lines; cells are never cut."""
    table = Table(box=None, pad_edge=False, show_header=titles, header_style="bold", padding=(0, 3, 0, 0))
    for title in titles_of:
        table.add_column(title, no_wrap=True, min_width=len(title))
    for row in rows:
        table.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in row))
    console().print(table, soft_wrap=True)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line; a value of several lines is indented below its name."""
    width = max(len(name) for name, _ in facts) + 1
    for name, value in facts:
        lines = value.splitlines() or [""]
        click.echo(f"{click.style(f'{name}:'.ljust(width), bold=True)} {plain(lines[0])}".rstrip())
        for line in lines[1:]:
            click.echo(f"{' ' * width} {plain(line)}")


def warn(text: str) -> None:
    """A warning to standard error."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {plain(text)}", err=True)


def console() -> Console:
    """Standard output; wide enough to cut nothing when it is no terminal."""
    return Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else _UNBOUNDED)


def as_json(value: object) -> str:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def as_yaml(value: object) -> str:
    """YAML in the order of the fields."""
    return str(yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=False))


def structured(value: object, output: Output) -> bool:
    """Print `value` as JSON or YAML if that is what `output` asks for; False: it is for the caller to print."""
    match output:
        case Output.JSON:
            click.echo(as_json(value))
        case Output.YAML:
            click.echo(as_yaml(value), nl=False)
        case _:
            return False
    return True


def plain(text: str) -> str:
    """Text that cannot steer a terminal: devices choose some of it."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def age(at_ms: int | None, now_ms: int) -> str:
    """How long ago, in the largest unit that gives at least 2."""
    if at_ms is None:
        return "-"
    seconds = max(0, now_ms - at_ms) // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def cohort(minimum: int, target: int, *, below: bool) -> str:
    """`16-32`, and whether the secure profile does not vouch for it."""
    return f"{minimum}-{target}" + (f", below the secure floor of {SECURE_FLOOR}" if below else "")


def numbers(metrics: dict[str, float]) -> str:
    """`accuracy=0.912 loss=0.31`."""
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(metrics.items())) or "-"


def or_dash(value: object) -> str:
    """A value, or `-` for None and for empty text."""
    return "-" if value is None or value == "" else str(value)
