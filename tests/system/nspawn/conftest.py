"""The archive, the base system and machines. tests/system/run has made the first two and names them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.system.nspawn.machine import Lan, Machine

REPOSITORY = Path(os.environ.get("FEDGE_SYSTEM_REPO", "/nonexistent"))
BASE = Path(os.environ.get("FEDGE_SYSTEM_BASE", "/nonexistent"))
SCRATCH = Path(os.environ.get("FEDGE_SYSTEM_SCRATCH", "/nonexistent"))


@pytest.fixture(scope="module")
def lan():
    found = Lan(f"fedge{os.getpid() % 100000}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def archive(lan):
    """The archive's URL as machines see it."""
    command = ["ip", "netns", "exec", lan.name, sys.executable, "-m", "http.server", "--directory", str(REPOSITORY)]
    with subprocess.Popen(
        [*command, "--bind", lan.address, "8000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        asked = ["ip", "netns", "exec", lan.name, "bash", "-c", f"exec 3<>/dev/tcp/{lan.address}/8000"]
        while subprocess.run(asked, capture_output=True, check=False).returncode:
            time.sleep(0.1)
        yield f"http://{lan.address}:8000"
        server.terminate()


@pytest.fixture(scope="module")
def machines(lan, tmp_path_factory):
    """Boots machines by name; all end with the module."""
    running: list[Machine] = []
    shared = tmp_path_factory.mktemp("shared")

    def boot(name, *, kernel=False):
        namespace, address = lan.join(10 + len(running))
        machine = Machine(name, address, namespace, SCRATCH / f"{os.getpid()}-{name}", BASE, shared, kernel=kernel)
        running.append(machine)
        machine.boot()
        return machine

    yield boot
    for machine in running:
        machine.close()


@pytest.fixture(scope="module")
def trust(archive):
    """Makes a machine trust the archive, as README says."""
    key = REPOSITORY / "fedge-archive-keyring.pgp"

    def teach(machine):
        (machine.root / "etc/apt/keyrings").mkdir(exist_ok=True)
        (machine.root / "etc/apt/keyrings/fedge.pgp").write_bytes(key.read_bytes())
        source = (
            f"Types: deb\nURIs: {archive}\nSuites: bookworm\nComponents: main\nSigned-By: /etc/apt/keyrings/fedge.pgp\n"
        )
        (machine.root / "etc/apt/sources.list.d/fedge.sources").write_text(source)
        # everything else that is needed is in the base system already; no mirror is asked
        (machine.root / "etc/apt/sources.list").write_text("")
        machine.do("apt-get update")

    return teach
