"""`fedge-ca`: make a fleet's certificate authority, run it, and ask it for tokens, certificates and revocations."""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from rich.console import Console
from rich.table import Table

from fedge_coordinator.command_help import as_written
from fedge_coordinator.enrolment import broker, desk, server, settings
from fedge_coordinator.enrolment.authority import private_pem
from fedge_coordinator.enrolment.errors import EnrolmentError
from fedge_coordinator.enrolment.files import PRIVATE, PUBLIC, write_durably
from fedge_coordinator.enrolment.operator import SocketDesk
from fedge_coordinator.enrolment.tokens import DEFAULT_TTL_S, MAX_USES
from fedge_protocol.certificates import Role, spki_der

EXIT_REFUSED: Final = 1
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Duration(click.ParamType[int]):
    """`90s`, `30m`, `24h` or `7d`, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 24h or 7d", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class _Family(click.Group):
    """Shows an `EnrolmentError` as one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EnrolmentError as error:
            raise click.ClickException(str(error)) from None


_DIR: Final = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("/var/lib/fedge-ca"), show_default=True,
    envvar="FEDGE_CA_DIR", help="The CA's directory (mode 0700).",
)  # fmt: skip
_OUTPUT: Final = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Format.")


@click.group(cls=_Family, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    r"""The certificate authority of a Fedge fleet: its own process, user and key.

    Commands work on the CA's files, or, while `fedge-ca run` owns them, ask that process through DIR/ca.sock.

    \b
    Examples:
      fedge-ca init --fleet lab --dir ca --listen 127.0.0.1:8443 --name localhost
      fedge-ca issue --dir ca --kind coordinator --out coordinator
      fedge-ca broker --dir ca --out mosquitto --port 8883 --name localhost
      fedge-ca run --dir ca
      fedge-ca token create --dir ca --uses 20 --ttl 24h
      fedge-ca revoke --dir ca 1f0c...
    """


@main.command()
@_DIR
@click.option("--fleet", required=True, help="Its name: a-z, 0-9 and -, at most 32 characters.")
@click.option("--listen", default="127.0.0.1:8443", show_default=True, help="Address and port of enrolment.")
@click.option("--name", "names", multiple=True, help="Host name or address in tokens and certificate; repeatable.")
@click.option("--broker-url", default="mqtts://localhost:8883", show_default=True, help="What devices are told.")
@click.option("--chain-id", default=0, show_default=True, help="The chain of the device registry; 0: none.")
@click.option("--registry", default="0x" + 40 * "0", help="DeviceRegistry's address.")
@click.option("--job-signer", "signers", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="PEM public key whose jobs devices trust; default: the coordinator's.")  # fmt: skip
@_OUTPUT
def init(folder: Path, fleet: str, listen: str, names: tuple[str, ...], broker_url: str, chain_id: int,
         registry: str, signers: tuple[Path, ...], output: str) -> None:  # fmt: skip
    r"""Make a new fleet: a P-256 root key (0600), its certificate, DIR/ca.toml.

    \b
    Example:
      fedge-ca init --fleet lab --dir ca --listen 0.0.0.0:8443 --name ca.example.org \
          --broker-url mqtts://mq.example.org:8883
    """
    chosen = settings.check(
        fleet=fleet,
        listen=listen,
        names=names or (listen.rpartition(":")[0],),
        broker_url=broker_url,
        chain_id=chain_id,
        registry=registry,
        job_signers=[settings.spki_hex(path.read_bytes()) for path in signers],
    )
    authority = desk.establish(folder, chosen, now=datetime.now(UTC))
    _show(output, {"fleet": fleet, "dir": str(folder), "url": chosen.url, "ca_sha256": authority.sha256.hex()})


@main.command()
@_DIR
def run(folder: Path) -> None:
    r"""Serve enrolment (HTTPS) and the operator's socket until SIGTERM.

    \b
    Example:
      fedge-ca run --dir ca
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    server.run(folder)


@main.command()
@_DIR
@click.option("--kind", type=click.Choice([Role.BROKER.value, Role.COORDINATOR.value]), required=True)
@click.option("--name", "names", multiple=True, help="A broker's host name or address; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for key.pem, cert.pem, ca.pem.")
@_OUTPUT
def issue(folder: Path, kind: str, names: tuple[str, ...], out: Path, output: str) -> None:
    r"""Make a key and a certificate for the broker or the coordinator, as files.

    \b
    Examples:
      fedge-ca issue --dir ca --kind broker --name mq.example.org --name 10.0.0.5 --out broker
      fedge-ca issue --dir ca --kind coordinator --out coordinator
    """
    _show(output, _issue(folder, Role(kind), names, out))


@main.command("broker")
@_DIR
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The broker's directory.")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True)
@click.option("--websocket-port", type=click.IntRange(1, 65535), help="Also for MQTT in a WebSocket (wss), e.g. 443.")
@click.option("--address", default="127.0.0.1", show_default=True, help="To listen on.")
@click.option("--name", "names", multiple=True, required=True, help="Its host name or address; repeatable.")
@click.option("--user", default="", help="Whom Mosquitto becomes when started by root.")
@_OUTPUT
def broker_command(folder: Path, out: Path, port: int, websocket_port: int | None, address: str,
                   names: tuple[str, ...], user: str, output: str) -> None:  # fmt: skip
    r"""Write a complete Mosquitto directory: certificate, configuration, ACL, revocation list.

    \b
    Example:
      fedge-ca broker --dir ca --out mosquitto --port 8883 --name mq.example.org
      mosquitto -c mosquitto/mosquitto.conf
      fedge-ca broker --dir ca --out mosquitto --websocket-port 443 --name mq.example.org
    """
    if websocket_port is not None:
        broker.require_websockets(shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin"))
    files = _issue(folder, Role.BROKER, names, out)
    with _desk(folder) as office:
        write_durably(out / desk.CRL, office.crl_pem(), mode=PUBLIC)
        revoked = [device.device_id for device in office.devices() if device.revoked_at is not None]
    written = broker.render(
        out,
        port=port,
        ca=out / "ca.pem",
        cert=out / "cert.pem",
        key=out / "key.pem",
        crl=out / desk.CRL,
        fleet=settings.load(folder / desk.SETTINGS).fleet,
        address=address,
        user=user,
        revoked=revoked,
        websocket_port=websocket_port,
    )
    _show(output, {**files, "conf": str(written.conf), "acl": str(written.acl), "pid_file": str(written.pid_file)})


@main.group()
def token() -> None:
    """Enrolment tokens: the right of a device to become a member, once."""


@token.command("create")
@_DIR
@click.option("--uses", type=click.IntRange(1, MAX_USES), default=1, show_default=True, help="How many devices.")
@click.option("--ttl", "ttl_s", type=_Duration(), default=DEFAULT_TTL_S, show_default="24h", help="90s, 30m, 24h, 7d.")
@click.option("--label", default="", help="For whom; at most 64 characters.")
@_OUTPUT
def token_create(folder: Path, uses: int, ttl_s: int, label: str, output: str) -> None:
    r"""Make a token. It is shown this once; only its hash is kept.

    \b
    Example:
      fedge-agent enroll "$(fedge-ca token create --dir ca)"
    """
    with _desk(folder) as office:
        made = office.create_token(uses=uses, ttl_s=ttl_s, label=label[:64])
    if output == "json":
        click.echo(msgspec.json.encode(made))
    else:
        click.echo(made.token)


@token.command("list")
@_DIR
@_OUTPUT
def token_list(folder: Path, output: str) -> None:
    """Show all tokens, without their secrets."""
    with _desk(folder) as office:
        _show_rows(output, [msgspec.to_builtins(state) for state in office.list_tokens()])


@token.command("revoke")
@_DIR
@click.argument("token_id")
@_OUTPUT
def token_revoke(folder: Path, token_id: str, output: str) -> None:
    r"""End a token. Devices that it enrolled stay members.

    \b
    Example:
      fedge-ca token revoke --dir ca 3f9a01bc22de
    """
    with _desk(folder) as office:
        _show(output, msgspec.to_builtins(office.revoke_token(token_id)))


@main.command()
@_DIR
@_OUTPUT
def devices(folder: Path, output: str) -> None:
    """Show all devices that ever were members."""
    with _desk(folder) as office:
        _show_rows(output, [msgspec.to_builtins(state) for state in office.devices()])


@main.command()
@_DIR
@click.argument("device")
@_OUTPUT
def revoke(folder: Path, device: str, output: str) -> None:
    r"""End a device's membership for good: coordinator at once, broker within seconds.

    \b
    Examples:
      fedge-ca revoke --dir ca 1f0c8a...
      fedge-ca revoke --dir ca coordinator.lab     (its key was stolen: issue another after)
    """
    with _desk(folder) as office:
        _show(output, msgspec.to_builtins(office.revoke(device)))


@main.command()
@_DIR
def crl(folder: Path) -> None:
    """Write the present revocation list (PEM) to standard output."""
    with _desk(folder) as office:
        click.echo(office.crl_pem(), nl=False)


def _issue(folder: Path, role: Role, names: tuple[str, ...], out: Path) -> dict[str, str]:
    if role is Role.BROKER and not names:
        raise click.UsageError("a broker needs --name HOST")
    key = ec.generate_private_key(ec.SECP256R1())
    with _desk(folder) as office:
        certificate = desk.certificate_pem(office.issue_service(role, names, spki_der(key.public_key())))
    out.mkdir(mode=0o750, parents=True, exist_ok=True)
    write_durably(out / "key.pem", private_pem(key), mode=PRIVATE)
    write_durably(out / "cert.pem", certificate, mode=PUBLIC)
    write_durably(out / "ca.pem", (folder / desk.CERTIFICATE).read_bytes(), mode=PUBLIC)
    return {"kind": role.value, "key": str(out / "key.pem"), "cert": str(out / "cert.pem"), "ca": str(out / "ca.pem")}


@contextmanager
def _desk(folder: Path) -> Iterator[desk.Desk]:
    """The files when nobody owns them, otherwise the socket of whoever does."""
    with desk.ownership(folder) as owned:
        if owned:
            yield desk.open_office(folder, time.time).desk
        else:
            with SocketDesk(folder / desk.SOCKET) as remote:
                yield remote


def _show(output: str, values: dict[str, object] | dict[str, str]) -> None:
    if output == "json":
        click.echo(json.dumps(values))
        return
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, str(value))
    Console().print(table)


def _show_rows(output: str, rows: list[dict[str, object]]) -> None:
    if output == "json":
        click.echo(json.dumps(rows))
        return
    table = Table(box=None)
    for column in rows[0] if rows else []:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()


as_written(main)
