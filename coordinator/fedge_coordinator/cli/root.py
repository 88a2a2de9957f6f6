"""The command itself: its parts, and what it returns to the shell."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Final, NoReturn

import click

from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.command_help import as_written

_PARTS: Final = {
    "init": "founding:init",
    "apply": "applying:apply",
    "get": "getting:get",
    "describe": "describing:describe",
    "pause": "steering:pause",
    "resume": "steering:resume",
    "cancel": "steering:cancel",
    "token": "membership:token",
    "devices": "membership:devices",
    "audit": "auditing:audit",
}


class _Parts(click.Group):
    """Imports a part when it is used, so that each command pays only for itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _PARTS:
            return None
        module, name = _PARTS[cmd_name].split(":")
        part = getattr(import_module(f"fedge_coordinator.cli.{module}"), name)
        if not isinstance(part, click.Command):
            raise TypeError(f"{_PARTS[cmd_name]} is no command")
        return as_written(part)


@click.group(cls=_Parts, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("fedge"), prog_name="fedgectl")
def fedgectl() -> None:
    r"""Operate a Fedge fleet: jobs, rounds, devices, tokens, rewards.

    The coordinator is asked over its Unix socket; who may open that may do everything.

    \b
    Examples:
      fedgectl init --fleet lab --host fedge.example.org
      fedgectl apply -f training-job.yaml
      fedgectl get rounds --watch
      fedgectl describe job digits
      fedgectl token create --uses 20
      fedgectl audit digits

    \b
    Exit codes:
      0    done
      1    failed, or a check failed
      2    wrong usage
      3    the coordinator or the CA cannot be reached
      4    not found
      5    refused: invalid document, or not allowed now
      130  interrupted
    """


as_written(fedgectl)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        result = fedgectl.main(args=arguments, prog_name="fedgectl", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except CommandError as error:
        error.show()
        return error.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return result if isinstance(result, int) else ExitCode.OK


def main() -> NoReturn:
    """The entry point `fedgectl`."""
    sys.exit(run())
