"""`fedgectl token` and `fedgectl devices`: who belongs to the fleet. All but `accept` is the CA's to decide."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from fedge_coordinator.cli.client import ApiClient, probe_socket
from fedge_coordinator.cli.describing import one_device
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.cli.listings import device_status
from fedge_coordinator.cli.options import Duration, ca_option, confirm, output_option, socket_option, yes_option
from fedge_coordinator.cli.rendering import Output, plain, print_table, structured, warn
from fedge_coordinator.enrolment.desk import Desk
from fedge_coordinator.enrolment.errors import BusyError, EnrolmentError, NotFoundError
from fedge_coordinator.enrolment.operator import SocketDesk
from fedge_coordinator.enrolment.tokens import DEFAULT_TTL_S, MAX_USES, TokenState

_START = "start it: fedge-ca run --dir DIR"


@click.group()
def token() -> None:
    r"""Enrolment tokens: the right of a device to become a member.

    \b
    Examples:
      fedgectl token create --uses 20 --ttl 24h
      fedgectl token list
    """


@token.command("create")
@click.option("--uses", type=click.IntRange(1, MAX_USES), default=1, show_default=True, help="How many devices.")
@click.option("--ttl", "ttl_s", type=Duration(), default=DEFAULT_TTL_S, show_default="24h", help="90s, 30m, 24h, 7d.")
@click.option("--label", default="", help="For whom; at most 64 characters.")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@ca_option
def token_create(uses: int, ttl_s: int, label: str, output: Output, ca_socket: Path) -> None:
    r"""Make a token. It is shown this once; only its hash is kept.

    \b
    Examples:
      fedgectl token create
      fedge-agent enroll "$(fedgectl token create --uses 20 --label hall-3)"
    """
    with _desk(ca_socket) as desk:
        made = desk.create_token(uses=uses, ttl_s=ttl_s, label=label)
    if not structured(made, output):
        click.echo(made.token)


@token.command("list")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@ca_option
def token_list(output: Output, ca_socket: Path) -> None:
    r"""List all tokens, the newest first, without their secrets.

    \b
    Example:
      fedgectl token list
    """
    with _desk(ca_socket) as desk:
        _show_tokens(desk.list_tokens(), output)


@token.command("revoke")
@click.argument("token_id")
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@ca_option
def token_revoke(token_id: str, output: Output, ca_socket: Path) -> None:
    r"""End a token. Devices that it enrolled stay members.

    \b
    Example:
      fedgectl token revoke 3f9a01bc22de
    """
    with _desk(ca_socket) as desk:
        _show_tokens([desk.revoke_token(token_id)], output)


@click.group()
def devices() -> None:
    r"""Decide about devices; list them with: fedgectl get devices.

    \b
    Examples:
      fedgectl devices revoke 1f0c8a...
      fedgectl devices accept 1f0c8a...
    """


@devices.command()
@click.argument("device")
@yes_option
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@ca_option
def revoke(device: str, yes: bool, output: Output, ca_socket: Path) -> None:  # noqa: FBT001 - click
    r"""End a device's membership for good: coordinator at once, broker within seconds.

    \b
    Examples:
      fedgectl devices revoke 1f0c8a5d0b1e...
      fedgectl devices revoke 1f0c8a5d0b1e... --yes
    """
    confirm(f"Revoke device {device}?", yes=yes)
    with _desk(ca_socket) as desk:
        done = desk.revoke(device.removeprefix("device/"))
    if not structured(done, output):
        click.echo(f"device/{plain(done.name)} revoked")
    if done.broker != "told":
        warn(f"broker: {done.broker}")


@devices.command()
@click.argument("device")
@yes_option
@output_option(Output.TABLE, Output.JSON, Output.YAML)
@socket_option
def accept(device: str, yes: bool, output: Output, socket: Path) -> None:  # noqa: FBT001 - click
    r"""Let a device that is a duplicate identity speak again: the disk that spoke last, on whatever machine.

    Do this when the other copies are gone, or when a disk or a board was changed on purpose. A disk that was copied or
    restored before the device spoke last is found out again; on it: fedge-agent leave, then enroll with a new token.
    The beginning of the id is enough when it is the only one.

    \b
    Examples:
      fedgectl devices accept 1f0c8a
      fedgectl devices accept 1f0c8a --yes -o json
    """
    with ApiClient(socket) as client:
        found = one_device(client, device)
        confirm(f"Are all other copies of device {found.device} gone?", yes=yes)
        done = client.accept_device(found.device)
    if not structured(done, output):
        click.echo(f"device/{plain(done.device)} accepted: {device_status(done)}")


@contextmanager
def _desk(path: Path) -> Iterator[Desk]:
    probe_socket(path, "CA", _START)
    try:
        with SocketDesk(path) as desk:
            yield desk
    except NotFoundError as error:
        cure = "list what there is: fedgectl token list, fedgectl get devices"
        raise CommandError(ExitCode.NOT_FOUND, str(error).partition(";")[0], cure) from error
    except BusyError as error:
        raise CommandError(ExitCode.UNREACHABLE, str(error), _START) from error
    except EnrolmentError as error:
        raise CommandError(ExitCode.REFUSED, str(error), "correct that and try again") from error


def _show_tokens(tokens: list[TokenState], output: Output) -> None:
    if structured(tokens, output):
        return
    if not tokens:
        click.echo("no tokens; make one: fedgectl token create", err=True)
        return
    print_table(
        ("TOKEN", "STATUS", "USES LEFT", "EXPIRES", "LABEL"),
        [
            (each.id, _status(each), f"{each.uses_left}/{each.uses}", _moment(each.expires_at), each.label)
            for each in tokens
        ],
    )


def _status(token_state: TokenState) -> str:
    if token_state.revoked_at is not None:
        return "revoked"
    if token_state.expires_at <= time.time():
        return "expired"
    return "used" if token_state.uses_left == 0 else "valid"


def _moment(unix_seconds: int) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M} UTC"
