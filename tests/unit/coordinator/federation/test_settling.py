"""Epochs, registrations and publication beside real rounds, on the local ledger; also across a kill at any point."""

import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.unit.coordinator.federation.ground import FLEET, Ground, Member, document, serving

from fedge_coordinator.federation.publishing import Publisher, aggregate_recomputer
from fedge_coordinator.federation.retention import Retention
from fedge_coordinator.federation.settling import Settler
from fedge_coordinator.settlement.audit import audit
from fedge_coordinator.settlement.bundle import read_bundle
from fedge_coordinator.settlement.documents import RoundRecord, decode_document
from fedge_coordinator.settlement.errors import BindingRefusedError, PoolExhaustedError
from fedge_coordinator.settlement.interface import Settlement, SignedBinding
from fedge_coordinator.store.jobs import JobStatus
from fedge_coordinator.store.journal import RoundKey
from fedge_protocol.certificates import spki_der
from fedge_protocol.eip712 import DeviceBinding, Domain, job_id
from fedge_protocol.receipts import sign_binding

NAME = job_id(FLEET, "demo")


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with serving(Ground(tmp_path)) as ground:
        yield ground


def settler_of(ground: Ground, settlement: Settlement | None = None, bindings: list[Any] | None = None) -> Settler:
    """A settler as a new process has it."""
    return Settler(
        FLEET,
        ground.store,
        settlement or ground.settlement,
        Publisher(ground.folder / "published", ground.store),
        ground.notes,
        lambda: bindings or [],
        ground.clock,
        Retention(ground.store, 2),
    )


def consent(member: Member) -> SignedBinding:
    """A member's real consent to be registered."""
    chain, now = member.device.chain, int(member.ground.clock() / 1000)
    device_id = hashlib.sha256(spki_der(member.device.key.public_key())).digest()
    unsigned = DeviceBinding(device_id, chain.address, chain.address, bytes(32), now + 1000)
    return SignedBinding(unsigned, sign_binding(chain, Domain(0, bytes(20)), unsigned))


async def rounds(ground: Ground, number: int, **changes: Any) -> None:
    ground.introduce()
    ground.apply(document(rollout={"rounds": number}, **changes))
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)


def epochs(ground: Ground) -> list[tuple[int, list[int]]]:
    evidence = read_bundle(ground.folder / "published" / "demo")
    return [
        (number, [row["round"] for row in msgspec.json.decode(content)["rounds"]])
        for number, content in sorted(evidence.epochs.items())
    ]


async def pause_passes(ground: Ground) -> None:
    """Time goes on until the next round is offered, or none any more."""
    before = len(ground.offers())
    while len(ground.offers()) == before:
        ground.jumps(3601)
        await ground.settle()


async def test_what_is_published_passes_the_audit(ground):
    await rounds(ground, 2)
    await settler_of(ground, bindings=[consent(member) for member in ground.members])._step()
    folder = ground.folder / "published" / "demo"
    evidence = read_bundle(folder)
    report = audit(evidence, await ground.settlement.view(NAME), recompute_aggregate=aggregate_recomputer(evidence))
    assert report.failures == ()
    assert sorted(evidence.records) == [1, 2]
    assert sorted(evidence.weights) == [0, 1, 2]


async def test_records_that_a_killed_process_did_not_publish_are_published_by_the_next(ground):
    await rounds(ground, 2)
    assert not (ground.folder / "published").exists()
    await settler_of(ground)._step()
    assert [row.checkpoint for row in ground.store.jobs.progress("demo")] == [
        row.weights for row in ground.store.jobs.progress("demo")
    ]
    assert sorted(read_bundle(ground.folder / "published" / "demo").records) == [1, 2]


async def test_an_epoch_is_settled_after_its_rounds_and_the_rest_at_the_end(ground):
    rewards = {"perRound": "1000", "epochRounds": 2}
    ground.introduce()
    ground.apply(document(rollout={"rounds": 3, "pauseSeconds": 3600}, rewards=rewards))
    settler = settler_of(ground)
    seen = []
    for finished in (1, 2, 3):
        await ground.until(lambda finished=finished: ground.job().next_round == finished + 1)
        await settler._step()
        seen.append([number for number, _ in epochs(ground)])
        await pause_passes(ground)
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    await settler._step()
    assert seen == [[], [1], [1]]
    assert epochs(ground) == [(1, [1, 2]), (2, [3])]
    balances = await ground.settlement.balances(NAME)
    assert sum(balance.paid for balance in balances.values()) == 3000


async def test_a_restart_neither_begins_an_epoch_early_nor_loses_the_published_one(ground):
    rewards = {"perRound": "1000", "epochRounds": 2}
    ground.introduce()
    ground.apply(document(rollout={"rounds": 5, "pauseSeconds": 3600}, rewards=rewards))
    for finished in (1, 2, 3):
        await ground.until(lambda finished=finished: ground.job().next_round == finished + 1)
        if finished == 2:
            await settler_of(ground)._step()
            # killed after the commit of the epoch and before its document was written
            next((ground.folder / "published" / "demo" / "epochs").iterdir()).unlink()
        if finished < 3:
            await pause_passes(ground)
    await settler_of(ground)._step()
    assert epochs(ground) == [(1, [1, 2])]  # round 3 waits for its epoch's second round
    last = await ground.settlement.last_epoch(NAME)
    assert last is not None
    assert last.epoch == 1


async def test_settling_again_pays_nothing_twice(ground):
    await rounds(ground, 2)
    for _ in range(3):
        await settler_of(ground)._step()
    balances = await ground.settlement.balances(NAME)
    assert sum(balance.paid for balance in balances.values()) == 2000
    assert len(epochs(ground)) == 1


# --- what goes wrong with one must not stop the others


class Registry:
    """A settlement that only registers, and refuses the bindings of one device."""

    def __init__(self, ground: Ground, bad: bytes) -> None:
        self._ground = ground
        self._bad = bad
        self.registered: list[bytes] = []

    async def register_devices(self, bindings: list[SignedBinding]) -> int:
        if any(signed.binding.device == self._bad for signed in bindings):
            raise BindingRefusedError("too old")
        self.registered += [signed.binding.device for signed in bindings]
        return len(bindings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ground.settlement, name)


def binding(number: int) -> SignedBinding:
    device = bytes([number]) * 20
    return SignedBinding(DeviceBinding(bytes([number]) * 32, device, device, bytes(32), 0), bytes(65))


async def test_one_device_without_a_valid_consent_holds_nobody_up(ground, caplog):
    registry = Registry(ground, bad=bytes([2]) * 20)
    settler = settler_of(ground, cast("Settlement", registry), [binding(1), binding(2), binding(3)])
    for _ in range(3):
        await settler._step()
    assert registry.registered == [bytes([1]) * 20, bytes([3]) * 20]
    assert caplog.text.count("too old") == 1
    assert settler.backlog is not None


class Exhausted:
    """A settlement whose pool of one job is empty."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.advanced = 0

    async def settle_epoch(self, name: bytes) -> None:
        raise PoolExhaustedError("epoch 1 would promise 1000 of 0 funded units")

    async def advance(self) -> Any:
        self.advanced += 1
        return await self._ground.settlement.advance()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ground.settlement, name)


async def test_an_exhausted_pool_is_told_once_and_stops_nothing_else(ground, caplog):
    await rounds(ground, 1)
    exhausted = Exhausted(ground)
    settler = settler_of(ground, cast("Settlement", exhausted))
    for _ in range(3):
        await settler._step()
    assert exhausted.advanced == 3
    assert caplog.text.count("would promise 1000 of 0") == 1
    assert sorted(read_bundle(ground.folder / "published" / "demo").records) == [1]


async def test_a_round_whose_blob_is_gone_is_reported_and_the_others_are_published(ground, caplog):
    await rounds(ground, 2)
    evidence = [row.weights for row in ground.store.jobs.progress("demo")]
    assert evidence[1] is not None
    ground.store.blobs.path(evidence[1]).unlink()
    settler = settler_of(ground)
    await settler._step()
    assert sorted(read_bundle(ground.folder / "published" / "demo").records) == [1]
    assert "cannot be published" in caplog.text


async def test_a_round_without_a_record_publishes_nothing(ground):
    publisher = Publisher(ground.folder / "published", ground.store)
    assert publisher.round_finished(RoundKey("demo", 1, 0)) is None
    assert not (ground.folder / "published").exists()


# --- finishing


async def test_a_round_that_is_finished_again_after_a_crash_before_its_commit_gives_the_same_record(tmp_path):
    """The blobs are written before the commit; whoever is killed in between does it all again."""

    class CutError(Exception):
        pass

    class Cut:
        """A settlement whose process dies right before the commit."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self.records: list[Any] = []

        async def publish_checkpoint(self, body: Any, *, connection: Any = None) -> Any:
            self.records.append(body)
            raise CutError

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    ground = Ground(tmp_path)
    cut = Cut(ground.settlement)
    ground.parts = dataclasses.replace(ground.parts, settlement=cast("Settlement", cut))
    ground.parts.finisher._settlement = cast("Settlement", cut)
    async with serving(ground):
        ground.introduce()
        ground.store.jobs.apply(document(rollout={"rounds": 1}))
        task = ground.run_job()
        with pytest.raises(CutError):
            await ground.until(task.done)
        assert ground.store.jobs.progress("demo") == []
    again = Ground(tmp_path, known=ground.members)
    async with serving(again):
        again.run_job()
        await again.until(lambda: again.job().status is JobStatus.FINISHED)
        record = read_record(again)
    (first,) = cut.records
    assert record.body == first


def read_record(ground: Ground) -> Any:
    content = ground.store.journal.record(RoundKey("demo", 1, 0))
    assert content is not None
    return decode_document(RoundRecord, content)


async def test_the_record_says_who_took_part_and_with_what(ground):
    ground.introduce()
    ground.members[3].deaf_to = {"inbound"}
    ground.apply(document(rollout={"rounds": 1}))
    await ground.until(lambda: [e["kind"] for e in ground.notes.named("input")].count("masked") == 3)
    ground.jumps(31)
    await ground.until(lambda: ground.job().status is JobStatus.FINISHED)
    body = read_record(ground).body
    took_part = {"0x" + member.device.chain.address.hex() for member in ground.members[:3]}
    assert {participant.device for participant in body.participants} == took_part
    assert [p.device for p in body.participants] == sorted(took_part)
    assert len(body.cohort) == 4
    assert {p.weight for p in body.participants} == {1, 2, 3}
    weights = ground.job().weights
    assert weights is not None
    assert body.model_after == "0x" + weights.hex()
    (row,) = ground.store.jobs.progress("demo")
    assert (row.participants, row.dropouts, row.bytes_up) == (3, 1, 3 * 128)
