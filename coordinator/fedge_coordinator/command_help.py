"""Help texts of commands, as their docstrings have them."""

import click


def as_written(command: click.Command) -> click.Command:
    r"""Let `\b` of a raw docstring be what click takes for "do not wrap what follows", in all subcommands too."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        as_written(part)
    return command
