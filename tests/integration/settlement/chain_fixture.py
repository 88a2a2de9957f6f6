"""A real anvil on a loopback port, and what the settlement's scenarios share."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedge_coordinator.settlement.deploy import DeploymentTerms
from fedge_coordinator.settlement.fees import FeePolicy
from fedge_coordinator.settlement.interface import Backlog, Settlement
from fedge_coordinator.settlement.outbox import OutboxPolicy
from fedge_coordinator.settlement.signer import LocalSigner

REPOSITORY = Path(__file__).parents[3]
CHAIN_ID = 31337
# the first of anvil's published development keys: worthless anywhere else
ANVIL_KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
POLICY = OutboxPolicy(confirmations=0, retry_s=0.05, max_retry_s=0.2, stuck_after_s=3600, fees=FeePolicy())


def anvil_binary() -> str:
    """Find the node's ELF rather than its node.js launcher, so that a signal reaches it."""
    folder = REPOSITORY / "contracts" / "node_modules"
    elf = folder / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
    launcher = folder / ".bin" / "anvil"
    found = next((str(path) for path in (elf, launcher) if path.exists()), shutil.which("anvil"))
    if found is None:
        pytest.skip("anvil is missing; run `npm ci` in contracts/")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Anvil:
    """A node that can be killed and started again with the state it dumped."""

    state: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [anvil_binary(), "--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(CHAIN_ID)]
        command += ["--state", str(self.state), "--silent", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("anvil did not listen within 20 s")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            os.kill(self.process.pid, signal_number)
            self.process.wait(20)
            self.process = None


def deployment_terms(committee: list[LocalSigner], sender: LocalSigner, **changes: object) -> DeploymentTerms:
    values: dict[str, object] = {
        "members": [member.address for member in committee],
        "threshold": 2,
        "admin": sender.address,
        "registrar": sender.address,
        "job_creator": sender.address,
        "guardian": sender.address,
        "activation_delay_s": 0,
    }
    return DeploymentTerms(**(values | changes))  # type: ignore[arg-type]


async def drain(settlement: Settlement, limit: int = 200) -> Backlog:
    """Advance until nothing waits; fail loudly when it never ends."""
    backlog = await settlement.advance()
    for _ in range(limit):
        if not backlog.waiting and not backlog.unconfirmed:
            return backlog
        backlog = await settlement.advance()
    raise AssertionError(backlog)
