"""These tests boot machines: tests/system/run calls them; an ordinary run of pytest passes them by.

tests/system/run has made the archive and the base system, and names them. A module's machines end with it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.system.archive import Archive
from tests.system.fleet import trust
from tests.system.lan import Lan
from tests.system.machine import Machine
from tests.system.nspawn.machine import Container

collect_ignore_glob = [] if os.environ.get("FEDGE_SYSTEM_TESTS") else ["*"]

BASE = Path(os.environ.get("FEDGE_SYSTEM_BASE", "/nonexistent"))
REPOSITORY = Path(os.environ.get("FEDGE_SYSTEM_REPO", "/nonexistent"))
SCRATCH = Path(os.environ.get("FEDGE_SYSTEM_SCRATCH", "/nonexistent"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever becomes of the tests: no disk, network namespace, mount or control group of theirs outlives them."""
    yield
    mine = str(os.getpid())
    left = [*SCRATCH.glob(f"{mine}-*"), *Path("/run/netns").glob(f"fedge{os.getpid() % 100000}*")]
    left += Path("/run/systemd/nspawn/propagate").glob(f"*-{mine}")
    left += [path for path in Path("/sys/fs/cgroup").rglob(f"fedge-machine-{mine}-*") if path.is_dir()]
    assert left == []
    assert f"/{mine}-" not in Path("/proc/self/mounts").read_text()


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """A network of the module's own."""
    found = Lan(f"fedge{os.getpid() % 100000}")
    yield found
    found.close()


@pytest.fixture(scope="module")
def archive(lan: Lan) -> Iterator[Archive]:
    """The signed archive, served to that network."""
    found = Archive(lan, REPOSITORY, SCRATCH / f"{os.getpid()}-archive")
    yield found
    found.close()


@pytest.fixture(scope="module")
def machines(lan: Lan, archive: Archive) -> Iterator[Callable[..., Machine]]:
    """Boots a machine by name and makes it trust the archive."""
    running: list[Container] = []

    def boot(name: str, *, kernel: bool = False) -> Machine:
        namespace, address = lan.join()
        machine = Container(name, address, namespace, SCRATCH / f"{os.getpid()}-{name}", BASE, kernel=kernel)
        running.append(machine)
        machine.boot()
        trust(machine, archive)
        return machine

    yield boot
    for machine in running:
        machine.close()
