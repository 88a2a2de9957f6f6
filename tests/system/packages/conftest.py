"""One booted machine with the agent's package, installed by the lines that README shows."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.system.fleet import Fleet, install
from tests.system.machine import Done
from tests.system.nspawn.machine import Container

# The unit as it is shipped, with another program: user, filters, limits and mounts stay.
PROBE = """
systemctl cat fedge-agent | sed -e '/^#/d' -e '/^ExecStart/d' -e '/^ExecStop/d' -e '/^Type=/d' -e '/^Restart/d' \
    -e '/^Watchdog/d' -e '/^Slice=/d' -e '/^BindPaths=/d' -e '/^StateDirectory/d' -e '/^RuntimeDirectory/d' \
    -e 's/^\\[Service\\]/[Service]\\nType=oneshot\\n{settings}/' >/run/systemd/system/probe-{name}.service
printf '[Service]\\nExecStart=/usr/lib/fedge/bin/python3 -IB /srv/probe/{name}.py\\n' \
    >>/run/systemd/system/probe-{name}.service
systemctl daemon-reload
systemctl start probe-{name}.service || {{ journalctl --no-pager --output=cat -u probe-{name}; exit 1; }}
"""


@pytest.fixture(scope="module")
def bare(machines: Callable[..., Container]) -> Container:
    """A machine that trusts the archive and has nothing of ours."""
    return machines("packaged", kernel=True)


@pytest.fixture(scope="module")
def before(bare: Container) -> frozenset[str]:
    """Every path that was there before anything of ours."""
    return frozenset(bare.do(LISTING).splitlines())


LISTING = "(find / -xdev; find /run /sys/fs/bpf) 2>/dev/null | sort"


@pytest.fixture(scope="module")
def machine(bare: Container, before: frozenset[str]) -> Container:
    """With the agent installed."""
    install(bare, "fedge-agent")
    (bare.root / "srv/probe").mkdir()
    return bare


@pytest.fixture(scope="module")
def founded(machine: Container) -> Fleet:
    """A fleet on the same machine."""
    install(machine, "fedge-coordinator")
    return Fleet(machine)


@pytest.fixture(scope="module")
def as_root(machine: Container) -> Callable[[Path], Done]:
    """Runs a Python file in the agent's private tree, as root."""

    def run(script: Path) -> Done:
        (machine.root / "srv/probe" / script.name).write_text(script.read_text())
        return machine.run(f"/usr/lib/fedge/bin/python3 -IB /srv/probe/{script.name}")

    return run


@pytest.fixture(scope="module")
def as_unit(machine: Container) -> Callable[..., Done]:
    """Runs a Python file under fedge-agent.service's own settings; `settings` are added to them."""

    def run(script: Path, settings: str = "") -> Done:
        (machine.root / "srv/probe" / script.name).write_text(script.read_text())
        return machine.run(PROBE.format(name=script.stem, settings=settings))

    return run
