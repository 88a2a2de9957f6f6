"""Whatever is lost, repeated, copied and restored: who forgot something says nothing, and nobody is accused in vain."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.sessions.world import DEVICE, HERE, Disk, World

from fedge_agent.identity.host import Host
from fedge_agent.session_record import Duplicate
from fedge_protocol.messages import Verdict

ELSEWHERE = Host(b"n" * 32, b"i" * 32)
UNKNOWN = Host(b"", b"")
_SETTINGS = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
_MEMORY = Path("/dev/shm")  # noqa: S108 - thousands of small databases, each in a folder of its own
any_index = st.integers(0, 2**16)


def found(disk: Disk) -> Duplicate | None:
    """Why a disk that is on has stopped."""
    return None if disk.side is None or disk.side.mark is None else disk.side.mark.duplicate


class _Events(RuleBasedStateMachine):
    """What can happen to one disk, a coordinator, and a broker that keeps every message and shows it when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fedge-sessions-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self.world = World(self.folder)
        self.round = 0

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder)

    def disk(self, index: int) -> Disk:
        return self.world.disks[index % len(self.world.disks)]

    @rule(index=any_index)
    def connect(self, index: int) -> None:
        self.world.connect(self.disk(index))

    @rule(index=any_index)
    def say(self, index: int) -> None:
        self.world.say(self.disk(index))

    @precondition(lambda self: self.world.ups)
    @rule(answered=st.booleans())
    def hear_the_newest(self, *, answered: bool) -> None:
        self.world.hear(self.world.ups[-1], answered=answered)

    @precondition(lambda self: self.world.ups)
    @rule(index=any_index)
    def hear_an_old_one(self, index: int) -> None:
        self.world.hear(self.world.ups[index % len(self.world.ups)])

    @precondition(lambda self: self.world.downs)
    @rule()
    def deliver_the_newest(self) -> None:
        self.world.deliver(self.world.downs[-1])

    @precondition(lambda self: self.world.downs)
    @rule(index=any_index)
    def deliver_an_old_one(self, index: int) -> None:
        self.world.deliver(self.world.downs[index % len(self.world.downs)])

    @rule(index=any_index)
    def cut_the_power(self, index: int) -> None:
        self.world.power_off(self.disk(index))

    @rule()
    def kill_the_coordinator(self) -> None:
        self.world.start_coordinator()

    @rule(index=any_index)
    def settle(self, index: int) -> None:
        self.world.settle(self.disk(index))

    @rule(index=any_index, steps=st.integers(0, 5), who=st.sampled_from(["device", "coordinator", "both"]))
    def die_on_the_way(self, index: int, steps: int, who: str) -> None:
        """The same, but for what comes after so many steps of it: asking, being asked, proving, being told."""
        disk = self.disk(index)
        self.world.settle(disk, steps=steps)
        if who != "coordinator":
            self.world.power_off(disk)
        if who != "device":
            self.world.start_coordinator()

    @rule(index=any_index, times=st.integers(2, 9))
    def connect_in_vain(self, index: int, times: int) -> None:
        for _ in range(times):
            self.world.connect(self.disk(index))


class OneDisk(_Events):
    """No copy, no restored disk: the coordinator's database may be restored, nobody is a duplicate."""

    def __init__(self) -> None:
        super().__init__()
        self.backups: list[Path] = []

    @rule()
    def back_up_the_coordinator(self) -> None:
        self.backups.append(self.world.back_up_coordinator())

    @precondition(lambda self: self.backups)
    @rule(index=any_index)
    def restore_the_coordinator(self, index: int) -> None:
        self.world.restore_coordinator(self.backups[index % len(self.backups)])

    @rule()
    def take_part(self) -> None:
        self.round += 1
        self.world.ready(self.world.disks[0], self.round)

    @rule()
    def read_no_serial_number(self) -> None:
        """As when the device tree is not there yet."""
        disk = self.world.disks[0]
        disk.host = UNKNOWN if disk.host == HERE else HERE
        self.world.power_off(disk)

    @rule(machine=st.binary(min_size=32, max_size=32))
    def make_a_new_machine_id(self, machine: bytes) -> None:
        disk = self.world.disks[0]
        if disk.host.hardware:
            disk.host = Host(machine, disk.host.hardware)
            self.world.power_off(disk)

    @invariant()
    def nobody_is_accused(self) -> None:
        assert self.world.known.duplicate(DEVICE) is None
        side = self.world.disks[0].side
        assert side is None or side.mark is None

    def teardown(self) -> None:
        self.world.settle(self.world.disks[0])
        assert self.world.disks[0].confirmed, "in the end the device is heard"
        super().teardown()


class ManyDisks(_Events):
    """Copies and restored snapshots, on this machine and on another. The operator may accept the device again."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots: list[Path] = []

    @initialize()
    def begin(self) -> None:
        self.world.settle(self.world.disks[0])
        assert self.world.disks[0].confirmed

    @precondition(lambda self: len(self.world.disks) < 4)
    @rule(index=any_index, host=st.sampled_from([HERE, ELSEWHERE, UNKNOWN]))
    def copy(self, index: int, host: Host) -> None:
        self.world.copy(self.disk(index), host)

    @rule(index=any_index)
    def take_a_snapshot(self, index: int) -> None:
        self.snapshots.append(self.world.snapshot(self.disk(index)))

    @precondition(lambda self: self.snapshots)
    @rule(index=any_index, snapshot=any_index)
    def restore_a_snapshot(self, index: int, snapshot: int) -> None:
        self.world.restore(self.disk(index), self.snapshots[snapshot % len(self.snapshots)])

    @rule()
    def accept(self) -> None:
        self.world.known.accept(DEVICE)

    @rule(index=any_index, back=st.integers(0, 3))
    def take_part(self, index: int, back: int) -> None:
        """In a new round, or in one of before, whose offer a broker shows again."""
        self.round += 1
        number = max(self.round - back, 1)
        message = self.world.ready(self.disk(index), number)
        assert message is None or self.world.taken.get(number, message) == message, "signed twice"

    @invariant()
    def who_is_behind_or_marked_is_not_confirmed(self) -> None:
        for disk in self.world.disks:
            if disk.side is not None and disk.side.mark is not None:
                assert not disk.confirmed

    @invariant()
    def at_most_one_disk_is_confirmed(self) -> None:
        assert sum(disk.confirmed for disk in self.world.disks) <= 1


TestOneDisk = OneDisk.TestCase
TestOneDisk.settings = _SETTINGS
TestManyDisks = ManyDisks.TestCase
TestManyDisks.settings = _SETTINGS


def test_a_copy_on_another_machine_is_found_though_the_original_is_off(tmp_path: Path) -> None:
    world = World(tmp_path)
    original = world.disks[0]
    world.settle(original)
    world.power_off(original)
    copied = world.copy(original, ELSEWHERE)
    world.settle(copied)
    assert found(copied) is Duplicate.OTHER_HOST
    world.settle(original)
    assert found(original) is Duplicate.SEEN_TWICE
    world.known.accept(DEVICE)
    world.settle(original)
    assert original.confirmed
    world.settle(copied)
    assert found(copied) is Duplicate.BEHIND
    world.close()


def test_a_copy_of_a_running_disk_that_has_said_ready_since_is_behind(tmp_path: Path) -> None:
    """Though no session began since then: the READY alone tells."""
    world = World(tmp_path)
    original = world.disks[0]
    world.settle(original)
    copied = world.copy(original, HERE)
    assert world.ready(original, 1) is not None
    world.settle(copied)
    assert found(copied) is Duplicate.BEHIND
    world.close()


def test_what_was_asked_before_the_last_ready_is_no_proof(tmp_path: Path) -> None:
    """The question travels while the original still speaks."""
    world = World(tmp_path)
    original = world.disks[0]
    world.settle(original)
    copied = world.copy(original, HERE)
    world.power_on(copied)
    assert copied.side is not None
    copied.side.begin()
    asked = copied.side.pending
    assert asked is not None
    world.deliver(world.hear(asked).answers[0])
    assert world.ready(original, 1) is not None
    proof = copied.side.pending
    assert proof is not None
    assert proof.remembers
    (again,) = world.hear(proof).answers
    assert again.verdict is Verdict.PROVE
    world.deliver(again)
    assert copied.side.mark is not None
    world.close()


def test_a_ready_that_arrives_late_costs_its_own_device_one_more_question(tmp_path: Path) -> None:
    world = World(tmp_path)
    disk = world.disks[0]
    world.settle(disk)
    assert disk.store is not None
    message = disk.store.sign_once("job", 1, 0, "ready", b"body", lambda body: body)
    world.settle(disk, steps=3)  # asked, and about to prove
    world.known.said_ready(DEVICE, hashlib.sha256(message).digest())
    assert disk.side is not None
    for _ in range(2):
        proof = disk.side.pending
        assert proof is not None
        for answer in world.hear(proof).answers:
            world.deliver(answer)
    assert disk.confirmed
    world.close()
