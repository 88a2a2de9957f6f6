"""What the units promise, expanded as systemd expands it."""

import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
OWN = sorted(path for path in SYSTEMD.glob("*.service") if "SystemCallFilter=" in path.read_text())


def expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return set().union(*(expanded(line) for line in lines if line and not line.startswith("#")))


def allowed_calls(unit: Path) -> set[str]:
    """The calls that a unit's filter leaves; as systemd.exec(5), the first line says that it is an allow-list."""
    found: set[str] = set()
    for line in unit.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            value = line.removeprefix("SystemCallFilter=")
            calls = set().union(*(expanded(name) for name in value.removeprefix("~").split()))
            found = found - calls if value.startswith("~") else found | calls
    return found


def test_there_are_units():
    assert {"fedge-agent.service", "fedge-ca.service", "fedge-policy.service"} <= {path.name for path in OWN}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze; apt install systemd")
@pytest.mark.parametrize("unit", OWN, ids=lambda path: path.name)
def test_a_unit_that_may_make_some_sockets_cannot_make_others_by_io_uring(unit):
    calls = allowed_calls(unit)
    assert "RestrictAddressFamilies=" in unit.read_text()
    assert {"socket", "read", "epoll_wait"} <= calls
    assert not {name for name in calls if name.startswith("io_uring_")}


SOCKETS = sorted(SYSTEMD.glob("*.socket"))


@pytest.mark.parametrize("unit", SOCKETS, ids=lambda path: path.name)
def test_the_service_manager_makes_no_socket_where_a_services_user_could_put_a_link(unit):
    directories = {
        f"/{kind}/{line.partition('=')[2]}"
        for service in SYSTEMD.glob("*.service")
        for line in service.read_text().splitlines()
        for kind, setting in (("run", "RuntimeDirectory="), ("var/lib", "StateDirectory="))
        if line.startswith(setting)
    }
    places = [
        Path(line.partition("=")[2]) for line in unit.read_text().splitlines() if line.startswith("ListenStream=/")
    ]
    assert places
    assert [place for place in places if {str(parent) for parent in place.parents} & directories] == []
