"""`fedgectl init`: a fleet on this machine, from the installed package to running services."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_coordinator.enrolment.files import PUBLIC, write_durably

CA: Final = Path("/var/lib/fedge-ca")
BROKER: Final = Path("/var/lib/fedge-broker")
STATE: Final = Path("/var/lib/fedge-coordinator")
CONFIG: Final = Path("/etc/fedge/coordinator.toml")
SOCKET: Final = Path("/run/fedge-coordinator/api.sock")
_CA_USER, _USER, _BROKER_USER = "fedge-ca", "fedge-coordinator", "mosquitto"
_SERVICES: Final = ("fedge-ca", "fedge-broker", "fedge-broker-reload.path", "fedge-coordinator")


@click.command("init")
@click.option("--fleet", required=True, help="Its name: a-z, 0-9 and -, at most 32 characters.")
@click.option("--host", required=True, help="Name or address by which devices reach this machine.")
@click.option("--ca-port", type=click.IntRange(1, 65535), default=8443, show_default=True, help="Of enrolment.")
@click.option("--broker-port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="Of MQTT.")
@click.option("--listen", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - devices come from outside
def init(fleet: str, host: str, ca_port: int, broker_port: int, listen: str) -> None:
    r"""Found a fleet on this machine: certificate authority, broker, coordinator, each under its own user.

    Settlement goes to the local ledger; `fedge-coordinator deploy` and [chain] in coordinator.toml bring a chain.

    \b
    Example:
      fedgectl init --fleet lab --host fedge.example.org
      fedgectl token create
    """
    _check(CONFIG, CA / "ca.toml")
    broker_url = f"mqtts://{_bracketed(host)}:{broker_port}"
    _as(_CA_USER, ["fedge-ca", "init", "--fleet", fleet, "--listen", f"{_bracketed(listen)}:{ca_port}",
                   "--name", host, "--broker-url", broker_url])  # fmt: skip
    with (CA / "ca.toml").open("a", encoding="utf-8") as settings:
        settings.write(f'\n[broker]\ndir = "{BROKER}"\n')
    _found_broker(host, listen, broker_port)
    identity = _hand_over_identity()
    keys = STATE / "keys"
    _as(_USER, ["fedge-coordinator", "keys", str(keys)])
    text = (
        f'fleet = "{fleet}"\nstate_dir = "{STATE}"\nsocket = "{SOCKET}"\n'
        f'committee_keys = ["{keys / "committee.key"}"]\n\n'
        f'[identity]\nca = "{identity / "ca.pem"}"\ncert = "{identity / "cert.pem"}"\n'
        f'key = "{identity / "key.pem"}"\n\n'
        f'[ca]\nurl = "https://{_bracketed(host)}:{ca_port}"\n\n[broker]\nhost = "{host}"\nport = {broker_port}\n'
    )
    CONFIG.parent.mkdir(mode=0o755, exist_ok=True)
    write_durably(CONFIG, text.encode(), mode=PUBLIC)
    _run(["systemctl", "enable", "--quiet", "--now", *_SERVICES])
    click.echo(f"fleet {fleet} runs; devices enrol at https://{_bracketed(host)}:{ca_port} and talk to {broker_url}")
    click.echo("next: fedgectl token create, and on a device: fedge-agent enroll TOKEN")


def _check(*absent: Path) -> None:
    if os.geteuid() != 0:
        raise CommandError(ExitCode.REFUSED, "this makes files of three users", "run it as root")
    for path in absent:
        if path.exists():
            cure = "to begin anew: apt purge fedge-coordinator, which destroys the fleet, and install it again"
            raise CommandError(ExitCode.REFUSED, f"{path} exists: a fleet lives here already", cure)
    for user in (_CA_USER, _USER, _BROKER_USER):
        try:
            pwd.getpwnam(user)
        except KeyError:
            cure = "apt install mosquitto" if user == _BROKER_USER else "apt install --reinstall fedge-coordinator"
            raise CommandError(ExitCode.REFUSED, f"there is no user {user}", cure) from None


def _found_broker(host: str, listen: str, port: int) -> None:
    """Mosquitto's directory: the CA writes `acl` and `crl.pem` there, Mosquitto its pid file and `data/`."""
    BROKER.mkdir(mode=0o770, exist_ok=True)
    shutil.chown(BROKER, _CA_USER, _BROKER_USER)
    BROKER.chmod(0o770)
    _as(_CA_USER, ["fedge-ca", "broker", "--out", str(BROKER), "--port", str(port), "--address", listen,
                   "--name", host])  # fmt: skip
    for path in (BROKER / "key.pem", BROKER / "data"):
        shutil.chown(path, _BROKER_USER, _BROKER_USER)


def _hand_over_identity() -> Path:
    """The coordinator's key and certificate: made by the CA's user, then the coordinator's alone."""
    made, target = CA / "coordinator", STATE / "identity"
    _as(_CA_USER, ["fedge-ca", "issue", "--kind", "coordinator", "--out", str(made)])
    shutil.move(made, target)
    for path in (target, *target.iterdir()):
        shutil.chown(path, _USER, _USER)
    return target


def _as(user: str, command: Sequence[str]) -> None:
    entry = pwd.getpwnam(user)
    _run(command, user=entry.pw_uid, group=entry.pw_gid)


def _run(command: Sequence[str], *, user: int = 0, group: int = 0) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(  # noqa: S603 - our own commands, by fixed names
        command, user=user, group=group, extra_groups=[], umask=0o077, cwd="/", env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        lines = tuple(done.stdout.strip().splitlines()[-5:])
        raise CommandError(ExitCode.FAILED, f"{' '.join(command[:3])} failed", "see what it said", lines)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
