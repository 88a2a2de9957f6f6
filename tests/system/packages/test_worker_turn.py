"""The worker may come back to nice 0 while it masks: the unit's RLIMIT_NICE, on a machine that may raise limits."""

import os
from pathlib import Path

import pytest
from tests.system.packages.conftest import PROBE
from tests.system.qemu.machine import VirtualMachine

ROOT = Path(__file__).parents[3]
MODULES = "/usr/local/lib/python3.11/dist-packages/fedge_agent"


@pytest.fixture(scope="module")
def vm(lan, tmp_path_factory):
    """Debian's own kernel; in a container of a host without CAP_SYS_RESOURCE nobody can raise a limit."""
    built = os.environ.get("FEDGE_SYSTEM_QEMU")
    if built is None:
        pytest.skip("no virtual machine was asked for; tests/system/run --qemu")
    machine = VirtualMachine("worker", Path(built), tmp_path_factory.mktemp("vm") / "machine", *lan.join())
    try:
        machine.boot()
        yield machine
    finally:
        machine.cut_power()


def test_under_the_unit_a_worker_yields_to_everybody_and_takes_a_turn_of_its_own(vm):
    confine = (ROOT / "agent/fedge_agent/training/confine.py").read_text()
    for path, text in (
        (f"{MODULES}/__init__.py", ""),
        (f"{MODULES}/training/__init__.py", ""),
        (f"{MODULES}/training/confine.py", confine),
        ("/etc/systemd/system/fedge-agent.service", (ROOT / "systemd/fedge-agent.service").read_text()),
        ("/etc/sysusers.d/fedge.conf", (ROOT / "systemd/fedge-agent.sysusers").read_text()),
        ("/srv/probe/worker.py", (Path(__file__).with_name("libraries") / "worker_takes_its_turn.py").read_text()),
    ):
        vm.write(path, text)
    vm.do("systemd-sysusers && systemctl daemon-reload")
    assert "LimitNICE=20\n" in vm.do("systemctl show -p LimitNICE fedge-agent")
    vm.do(PROBE.format(name="worker", settings="").replace("/usr/lib/fedge/bin/python3", "/usr/bin/python3"))
