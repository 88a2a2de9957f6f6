"""The command `fedge-coordinator`: run the service, make its keys, deploy the contracts."""

import asyncio
import json
import logging
import os
import re
import secrets
import sys
from pathlib import Path

import click

from fedge_coordinator import service
from fedge_coordinator.command_help import as_written
from fedge_coordinator.config import DEFAULT_PATH, ConfigError, load
from fedge_coordinator.settlement.deploy import DeploymentTerms, deploy
from fedge_coordinator.settlement.errors import SettlementError
from fedge_coordinator.settlement.manifest import write_manifest
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.store.errors import StoreError

_EX_CONFIG = 78
_COMMITTEE_KEY = "committee.key"
_SENDER_KEY = "sender.key"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    r"""The coordinator of a Fedge fleet.

    \b
    Examples:
      fedge-coordinator keys /etc/fedge/keys
      fedge-coordinator deploy --rpc http://127.0.0.1:8545 --keys /etc/fedge/keys --out /etc/fedge/chain.json
      fedge-coordinator run --config /etc/fedge/coordinator.toml
    """


@main.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True)
def run(path: Path) -> None:
    """Run the service until SIGTERM. Status 78: the configuration cannot be used."""
    try:
        config = load(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(_EX_CONFIG)
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        sys.exit(service.run(config))
    except (SettlementError, StoreError, OSError) as error:
        click.echo(f"fedge-coordinator: {error}", err=True)
        sys.exit(1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def keys(folder: Path) -> None:
    """Make a committee key and a sender key (0600) in FOLDER, and print their addresses. Present keys are kept."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (_COMMITTEE_KEY, _SENDER_KEY):
        path = folder / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
        click.echo(f"{path}  0x{LocalSigner.from_file(path).address.hex()}")


@main.command("deploy")
@click.option("--rpc", "url", required=True, help="The chain's JSON-RPC endpoint.")
@click.option("--keys", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="See `keys`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the manifest goes.")
@click.option("--activation-delay", default=86400, show_default=True, help="Seconds from a reward root to its payment.")
@click.option("--token", default=None, help="An existing ERC-20 to pay with; by default a demo token is deployed.")
def deploy_command(url: str, folder: Path, out: Path, activation_delay: int, token: str | None) -> None:
    """Deploy the contracts with the sender key as admin; for production hand the admin role to a timelock after."""
    if out.exists():
        raise click.UsageError(f"{out} exists: the contracts of this fleet are deployed already")
    sender = LocalSigner.from_file(folder / _SENDER_KEY)
    committee = LocalSigner.from_file(folder / _COMMITTEE_KEY)
    terms = DeploymentTerms(
        members=[committee.address],
        threshold=1,
        admin=sender.address,
        registrar=sender.address,
        job_creator=sender.address,
        guardian=sender.address,
        activation_delay_s=activation_delay,
        token=_address(token) if token else None,
    )

    async def _deploy() -> None:
        async with JsonRpc([url]) as rpc:
            write_manifest(await deploy(rpc, sender, terms), out)

    try:
        asyncio.run(_deploy())
    except SettlementError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(json.loads(out.read_text())["contracts"], indent=2))


def _address(text: str) -> bytes:
    if not re.fullmatch("0x[0-9a-fA-F]{40}", text):
        raise click.BadParameter(f"{text!r} is not 0x and 40 hexadecimal digits", param_hint="--token")
    return bytes.fromhex(text.removeprefix("0x"))


as_written(main)
