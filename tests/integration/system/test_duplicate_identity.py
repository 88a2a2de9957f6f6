"""One identity on two disks: copied, restored, moved. Real broker, coordinator and agents on copied states."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.system.checking import check_nothing_was_signed_twice
from tests.integration.system.living_fleet import DEVICES, Device, LivingFleet

from fedge_agent.identity import enroll as enrolment
from fedge_agent.identity import record
from fedge_agent.identity.host import HARDWARE, MACHINE_ID
from fedge_coordinator.demo.processes import run
from fedge_coordinator.demo.programs import program
from fedge_coordinator.enrolment.operator import SocketDesk
from fedge_protocol.messages import Up

_SPOKEN = (Up.PREKEYS, Up.READY, Up.SHARES, Up.MASKED, Up.SURVIVOR, Up.UNMASK)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Guest:
    """A fifth device, enrolled for one test, and the copies of its disk."""

    def __init__(self, fleet: LivingFleet, folder: Path, name: str) -> None:
        self.fleet = fleet
        self.folder = folder
        home = folder / "enrolled"
        enrolment.enroll(self.token(), home)
        self.original = self._disk(50, home, name)
        self.disks = [self.original]

    def token(self) -> str:
        with SocketDesk(self.fleet.ground.folder / "ca" / "ca.sock") as desk:
            return desk.create_token(uses=1, ttl_s=3600, label="").token

    def copy(self) -> Device:
        """Another disk with what is on the original one now. Nothing of it may run meanwhile."""
        assert not self.original.alive
        copied = self._disk(50 + len(self.disks), self.original.home, f"copy-{len(self.disks)}")
        self.disks.append(copied)
        return copied

    def start(self, disk: Device, *wrapped: str) -> None:
        command = [*wrapped, program("fedge-agent"), "--config", str(disk.config), "run"]
        name = f"guest-{disk.number}"
        disk.child = self.fleet.children.start(name, command, env={"OPENBLAS_NUM_THREADS": "1"})

    def stop(self, disk: Device) -> None:
        """Pull the plug."""
        if disk.alive:
            assert disk.child is not None
            disk.child.kill()

    def wait_ready(self, disk: Device) -> None:
        """Until it is confirmed and has prekeys."""
        wanted = "waiting for a round", "waiting; "
        self.fleet.wait_until(
            lambda: (
                disk.status()["status"].startswith(wanted) and disk.status()["prekeys"] > 0 and self.seen()["online"]
            ),
            f"{disk.number} is in the fleet",
            timeout_s=150,
        )

    def wait_stopped(self, disk: Device, reason: str) -> dict[str, Any]:
        """Until a disk says that it is a duplicate; returns its status."""
        self.fleet.wait_until(
            lambda: (disk.status()["duplicate"] or {}).get("reason") == reason,
            f"{disk.number} stops because it is {reason}",
            timeout_s=150,
        )
        return disk.status()

    def seen(self) -> Any:
        """The coordinator's view."""
        return self.fleet.api(f"/v1/devices/{self.original.name}")

    def accept(self) -> str:
        command = [program("fedgectl"), "devices", "accept", self.original.name, "--yes"]
        return run([*command, "--socket", str(self.fleet.socket)])

    def said(self) -> dict[str, set[bytes]]:
        """What the broker saw of either disk."""
        return self.fleet.eavesdropper.said(self.original.name)

    def spoken(self) -> int:
        """How many messages that count it saw."""
        return sum(len(messages) for kind, messages in self.said().items() if kind in _SPOKEN)

    def close(self) -> None:
        for disk in self.disks:
            self.stop(disk)
        with SocketDesk(self.fleet.ground.folder / "ca" / "ca.sock") as desk, suppress(Exception):
            desk.revoke(self.original.name)

    def _disk(self, number: int, home: Path, name: str) -> Device:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        shutil.copytree(home, folder / "state")
        template = self.fleet.devices[0]
        text = template.config.read_text().replace(str(template.folder), str(folder))
        (folder / "agent.toml").write_text(text)
        return Device(number, record.load(home).device_id, folder)


@pytest.fixture
def guest(fleet: LivingFleet, tmp_path: Path) -> Iterator[Guest]:
    made = Guest(fleet, tmp_path, "original")
    yield made
    made.close()


def doctor(disk: Device) -> dict[str, str]:
    command = [program("fedge-agent"), "--config", str(disk.config), "doctor", "-o", "json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    return next(check for check in found["checks"] if check["name"] == "identity")


def test_both_copies_of_a_disk_stop_until_one_is_gone_and_the_operator_accepts_the_other(guest: Guest):
    fleet, original = guest.fleet, guest.original
    guest.start(original)
    guest.wait_ready(original)
    guest.stop(original)
    copied = guest.copy()
    guest.start(original)
    guest.wait_ready(original)
    assert guest.seen()["duplicate"] is None

    before = guest.spoken()
    guest.start(copied)
    told = guest.wait_stopped(copied, "behind")
    assert told["status"].startswith("duplicate identity: this disk is a copy, or a restored backup; cure: ")
    fleet.wait_until(lambda: guest.seen()["duplicate"] is not None, "the operator sees it")
    assert guest.seen()["duplicate"]["reason"] == "behind"
    guest.stop(original)
    guest.start(original)  # it was pushed off the broker, and would come back within two minutes by itself
    guest.wait_stopped(original, "seen-twice")

    listed = run([program("fedgectl"), "get", "devices", "--socket", str(fleet.socket)])
    assert next(line for line in listed.splitlines() if original.name in line).count("duplicate identity") == 1
    described = run([program("fedgectl"), "describe", "device", original.name, "--socket", str(fleet.socket)])
    assert "Duplicate" in described
    assert f"fedgectl devices accept {original.name}" in described
    for disk in (original, copied):
        assert doctor(disk)["grade"] == "fail"
        assert "fedge-agent leave --offline" in doctor(disk)["cure"]

    fleet.apply("without-copies", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("without-copies", 1)["participants"] == DEVICES
    for disk in (original, copied):
        guest.stop(disk)
        guest.start(disk)
    guest.wait_stopped(copied, "behind")
    guest.wait_stopped(original, "seen-twice")
    fleet.wait_until(lambda: not copied.status()["connected"], "a disk that is behind leaves the broker alone")
    assert guest.spoken() == before, "nothing left either disk"

    guest.stop(copied)
    assert guest.accept() == f"device/{original.name} accepted: online\n"
    guest.wait_ready(original)
    fleet.apply("with-the-original", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("with-the-original", 1)["participants"] == DEVICES + 1
    guest.start(copied)
    guest.wait_stopped(copied, "behind")
    check_nothing_was_signed_twice(fleet)


def test_a_restored_snapshot_says_nothing_and_leaves_to_enrol_anew(guest: Guest):
    fleet, disk = guest.fleet, guest.original
    guest.start(disk)
    guest.wait_ready(disk)
    guest.stop(disk)
    snapshot = guest.copy().home
    guest.start(disk)
    guest.wait_ready(disk)
    fleet.apply("before-restoring", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("before-restoring", 1)["participants"] == DEVICES + 1
    guest.stop(disk)

    said = guest.spoken()
    shutil.rmtree(disk.home)
    shutil.copytree(snapshot, disk.home)
    guest.start(disk)
    guest.wait_stopped(disk, "behind")
    fleet.wait_until(lambda: guest.seen()["duplicate"] is not None, "the operator sees it")
    fleet.apply("after-restoring", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("after-restoring", 1)["participants"] == DEVICES
    assert guest.spoken() == said
    guest.stop(disk)

    command = [program("fedge-agent"), "--config", str(disk.config)]
    run([*command, "leave", "--yes"])
    run([*command, "enroll", guest.token()])
    former = disk.name
    disk.name = record.load(disk.home).device_id
    assert disk.name != former
    guest.start(disk)
    guest.wait_ready(disk)
    fleet.apply("enrolled-anew", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("enrolled-anew", 1)["participants"] == DEVICES + 1


def test_a_disk_without_its_database_is_behind(guest: Guest):
    fleet, disk = guest.fleet, guest.original
    guest.start(disk)
    guest.wait_ready(disk)
    guest.stop(disk)
    disk.lose_memory()
    guest.start(disk)
    guest.wait_stopped(disk, "behind")
    fleet.wait_until(lambda: guest.seen()["duplicate"] is not None, "the operator sees it")


def test_a_disk_in_another_machine_waits_for_the_operator(guest: Guest):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("another machine is made by mounting files, which may not be done here; cure: run as root")
    fleet, disk = guest.fleet, guest.original
    guest.start(disk)
    guest.wait_ready(disk)
    guest.stop(disk)
    other = guest.folder / "other-machine"
    other.write_text("0123456789abcdef0123456789abcdef\n")
    places = [f"/{name}" for name in (MACHINE_ID, *HARDWARE) if Path(f"/{name}").exists()]
    mounts = "".join(f"mount --bind {other} {place} && " for place in places)
    machine = ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh"]

    guest.start(disk, *machine)
    told = guest.wait_stopped(disk, "other-host")
    assert "fedgectl devices accept" in told["status"]
    fleet.wait_until(lambda: guest.seen()["duplicate"] is not None, "the operator sees it")
    assert guest.seen()["duplicate"]["reason"] == "other-host"
    guest.accept()
    guest.wait_ready(disk)
    assert disk.status()["duplicate"] is None
    fleet.apply("moved", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("moved", 1)["participants"] == DEVICES + 1
    guest.stop(disk)
    guest.start(disk)  # back in the first machine, which is another one now
    guest.wait_stopped(disk, "other-host")


def test_power_cuts_and_losses_on_either_side_make_no_duplicate(guest: Guest):
    """Device and coordinator killed, the broker without its memory, the coordinator's database restored."""
    fleet, disk = guest.fleet, guest.original
    for _ in range(3):
        guest.start(disk)
        fleet.wait_until(lambda: disk.status()["connected"], "connected")
        guest.stop(disk)
    guest.start(disk)
    guest.wait_ready(disk)
    fleet.kill_coordinator()
    backup = guest.folder / "coordinator.db"
    with fleet.database() as database:
        database.execute("VACUUM INTO ?", (str(backup),))
    guest.stop(disk)
    guest.start(disk)
    fleet.restart_coordinator()
    guest.wait_ready(disk)
    fleet.broker.kill()
    fleet.ground.forget_sessions()
    fleet.restart_broker()
    guest.wait_ready(disk)
    fleet.wait_until(fleet.everybody_is_there, "all devices connected again", timeout_s=150)
    fleet.apply("before-the-backup", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("before-the-backup", 1)["participants"] == DEVICES + 1
    fleet.wait_job("before-the-backup")

    fleet.kill_coordinator()
    for path in fleet.state.glob("coordinator.db*"):
        path.unlink()
    shutil.copy(backup, fleet.state / "coordinator.db")
    fleet.restart_coordinator()
    guest.stop(disk)
    guest.start(disk)
    guest.wait_ready(disk)
    fleet.wait_until(fleet.everybody_is_there, "all devices are known again", timeout_s=150)
    fleet.apply("after-the-backup", rounds=1, target=DEVICES + 1)
    assert fleet.wait_finished("after-the-backup", 1)["participants"] == DEVICES + 1
    ours = {disk.name, *(device.name for device in fleet.devices)}
    assert [each for each in fleet.api("/v1/devices") if each["duplicate"] and each["device"] in ours] == []
