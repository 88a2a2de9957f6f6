"""The life of an installation: an upgrade in mid-round, two versions beside each other, the way back, removal, purge.

Both versions are built from the same commit, the one under a higher number; see `run`.
"""

import json
import re

import pytest
from tests.system.fleet import (
    STATE_DB,
    Fleet,
    connected,
    install,
    job,
    own,
    signed,
    waits_ready,
)

JOB = "digits"
LEFTOVERS = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /var/log -o -path /var/lib/apt -o -path /var/cache"
    " -o -path /etc/apt -o -path /usr/share/keyrings -o -path /root \\) -prune -o -name '*fedge*' -print"
)


@pytest.fixture(scope="module")
def operator(machines):
    machine = machines("operator")
    install(machine, "fedge-coordinator")
    return machine


@pytest.fixture(scope="module")
def versions(operator):
    """The archive's versions of fedge-agent, the older one first."""
    found = sorted(re.findall(r"fedge-agent \|\s+(\S+) \|", operator.do("apt-cache madison fedge-agent")))
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def fleet(operator):
    return Fleet(operator)


@pytest.fixture(scope="module")
def devices(machines, fleet, versions):
    """Two devices of the older version, enrolled; the job has completed a round."""
    found = [machines(f"device{number}") for number in (1, 2)]
    for seed, machine in enumerate(found):
        install(machine, "fedge-agent", versions[0])
        own(machine, seed)
        fleet.enrol(machine)
    fleet.apply(job(JOB, phase_s=15))
    fleet.completes(JOB)
    return found


@pytest.fixture(scope="module")
def upgraded(fleet, devices, versions):
    """The first device, upgraded in the middle of a round that its READY was accepted for; and what it was before."""
    machine, other = devices
    before = {
        "device": json.loads(machine.run("fedge-agent status -o json").text)["device"],
        "owner": machine.do("cat /etc/fedge/agent.d/50-test.toml /etc/fedge/agent.toml"),
    }
    other.do("fedge-agent pause")
    waits_ready(machine)
    before["rounds"] = fleet.rounds(JOB)
    before["signed"] = signed(machine.root / STATE_DB.lstrip("/"))
    install(machine, "fedge-agent", versions[1])
    other.do("fedge-agent resume")
    return machine, before


def test_an_upgrade_in_mid_round_keeps_enrolment_and_the_owners_edits(upgraded, versions):
    machine, before = upgraded
    assert before["rounds"][-1]["status"] == "open", "the round was not over when the upgrade began"
    assert machine.do("dpkg-query -W -f '${Version}' fedge-agent") == versions[1]
    assert machine.do("cat /etc/fedge/agent.d/50-test.toml /etc/fedge/agent.toml") == before["owner"]
    connected(machine)
    assert json.loads(machine.run("fedge-agent status -o json").text)["device"] == before["device"]


def test_after_an_upgrade_in_mid_round_nothing_is_signed_twice(upgraded, fleet):
    machine, before = upgraded
    fleet.completes(JOB)
    now = signed(machine.root / STATE_DB.lstrip("/"))
    assert {key: now[key] for key in before["signed"]} == before["signed"]
    assert "a second, different" not in fleet.operator.journal("fedge-coordinator")


def test_an_agent_of_the_previous_version_completes_a_round_beside_the_new_one(upgraded, fleet, devices, versions):
    running = [machine.do("dpkg-query -W -f '${Version}' fedge-agent") for machine in devices]
    assert running == [versions[1], versions[0]]
    assert fleet.completes(JOB)["participants"] == 2


def test_a_version_that_was_replaced_can_be_had_back(upgraded, fleet, versions):
    machine, before = upgraded
    install(machine, "fedge-agent", versions[0])
    assert machine.do("dpkg-query -W -f '${Version}' fedge-agent") == versions[0]
    connected(machine)
    assert json.loads(machine.run("fedge-agent status -o json").text)["device"] == before["device"]
    fleet.completes(JOB)


def test_a_removed_agent_keeps_its_state_and_a_purged_one_leaves_nothing(devices):
    machine = devices[0]
    machine.do("apt remove fedge-agent")
    for kept in ("/var/lib/fedge/chain.key", "/etc/fedge/agent.toml"):
        machine.do(f"test -e {kept}")
    said = machine.do("apt purge fedge-agent fedge-archive-keyring")
    assert "WARNING: the keys of this device are destroyed" in said
    left = machine.do(LEFTOVERS).splitlines()
    # what the owner wrote stays the owner's, and so do dpkg's and systemd's own notes
    assert [line for line in left if "/var/lib/dpkg" not in line and "deb-systemd" not in line] == []
    assert machine.run("getent passwd fedge").status != 0
    assert machine.run("pgrep -u fedge").status != 0
    assert machine.run("systemctl list-unit-files 'fedge*' --no-legend").text == ""


@pytest.mark.parametrize("what", ["index", "signature", "package"])
def test_a_tampered_archive_is_refused(devices, archive, versions, what):
    machine = devices[0]
    spoiled, before, after = {
        "index": ("dists/bookworm/main/binary-amd64/Packages", b"Version: 0", b"Version: 9"),
        "signature": ("dists/bookworm/InRelease", b"Codename: bookworm", b"Codename: trixie"),
        "package": (f"pool/fedge-agent_{versions[1]}_amd64.deb", b"control.tar", b"control.tor"),
    }[what]
    path = archive.folder / spoiled
    honest = path.read_bytes()
    assert before in honest
    try:
        path.unlink()  # the archive's own file may be the same one
        path.write_bytes(honest.replace(before, after, 1))
        if what == "index":
            path.with_name("Packages.gz").rename(path.with_name("Packages.away"))
        machine.do("rm -rf /var/lib/apt/lists/* && apt-get clean")
        update = machine.run("apt-get update -o Acquire::http::No-Cache=true -o APT::Update::Error-Mode=any")
        if what == "package":
            assert update.status == 0
            done = machine.run(f"apt install fedge-agent={versions[1]}")
            assert "Hash Sum mismatch" in done.text or "unexpected size" in done.text, done.text
        else:
            done = update
            reasons = ("Hash Sum mismatch", "unexpected size", "BADSIG", "is not signed", "NODATA")
            assert any(reason in done.text for reason in reasons), done.text
        assert done.status != 0
        assert machine.run("dpkg-query -W -f '${db:Status-Status}' fedge-agent").text != "installed"
    finally:
        path.write_bytes(honest)
        if what == "index":
            path.with_name("Packages.away").rename(path.with_name("Packages.gz"))
