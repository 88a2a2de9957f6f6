"""The driver with real workers, which are real processes: each test looks that none of them is left."""

import asyncio
import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.agent.federation.conftest import FLEET, an_offer
from tests.unit.agent.federation.ground import Ground, make_ground, serving

from fedge_agent.federation.consent import Consent
from fedge_agent.federation.driver import RoundDriver
from fedge_agent.federation.machine import State
from fedge_agent.model_slot import ModelSlots, slots
from fedge_coordinator.modelkit.bundle import ModelBundle, build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec
from fedge_protocol.conditions import ConditionState as AdmissionState
from fedge_protocol.cose import context_of, decode, verify
from fedge_protocol.messages import BlobRef, Offer, Ready, Refusal, Up, Want

replace = msgspec.structs.replace


@pytest.fixture(scope="session")
def bundle() -> ModelBundle:
    section = {"input": 4, "layers": [{"dense": 3}], "loss": "softmax-cross-entropy", "batchSize": 4, "seed": 1}
    return build_bundle(parse_model_spec(section))


@pytest.fixture
async def ground(tmp_path: Path, identity, store) -> AsyncIterator[Ground]:
    ground = make_ground(tmp_path, identity, store)
    async with serving(ground):
        yield ground


def blob(ground: Ground, content: bytes) -> BlobRef:
    ref = BlobRef(hashlib.sha256(content).digest(), len(content))
    path = ground.parts.blob_dir / ref.sha256.hex()
    path.write_bytes(content)
    ground.blobs.paths[ref.sha256] = path
    return ref


def offer_of(ground: Ground, bundle: ModelBundle) -> Offer:
    dim = len(bundle.weights) // 4
    return replace(an_offer(), graph=blob(ground, bundle.graph), weights=blob(ground, bundle.weights), dim=dim)


def samples(ground: Ground) -> None:
    random = np.random.default_rng(1)
    np.savez(ground.data / "samples.npz", x=random.normal(size=(40, 4)), y=random.integers(0, 3, 40))


def hanging(ground: Ground) -> Offer:
    """An offer whose graph is a pipe that nobody writes to: the worker hangs before it has trained anything."""
    offer = an_offer()
    path = ground.parts.blob_dir / offer.graph.sha256.hex()
    os.mkfifo(path)
    ground.blobs.paths[offer.graph.sha256] = path
    return replace(offer, weights=blob(ground, bytes(4 * offer.dim)))


def running(ground: Ground) -> RoundDriver:
    assert ground.client.round is not None
    return ground.client.round


def refusals(ground: Ground) -> list[Refusal]:
    context = context_of(FLEET, ground.identity.device_id, Up.REFUSAL)
    key = ground.identity.key.public_key()
    return [decode(verify(message, key, context), Refusal) for message in ground.wire.messages("refusal")]


async def worker_of(ground: Ground) -> int:
    """The process id of the worker, once admission has let it run."""
    await ground.until(lambda: ground.admission.decision.state is AdmissionState.RUNNING)
    worker = running(ground)._worker
    assert worker is not None
    return worker.pid


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def ended(ground: Ground) -> None:
    await running(ground).ended.wait()
    await running(ground).close()
    await ground.settle()


def assert_nothing_left(ground: Ground) -> None:
    assert ground.admission.decision.state is AdmissionState.IDLE
    assert ground.parts.control._pidfds == {}
    assert list(ground.parts.work_dir.iterdir()) == []
    assert running(ground)._tasks == set()


async def test_a_device_trains_first_and_then_says_that_it_is_ready(ground, bundle):
    samples(ground)
    ground.offered(offer_of(ground, bundle))
    await ground.until(lambda: ground.wire.messages("prekeys"))
    ground.parts.prekeys.acknowledged(1)
    await ground.until(lambda: ground.wire.messages("ready"))
    context = context_of(FLEET, ground.identity.device_id, Up.READY)
    ready = decode(verify(ground.wire.messages("ready")[0], ground.identity.key.public_key(), context), Ready)
    assert (ready.job, ready.round, ready.prekey_id, ready.weight) == ("demo", 1, 1, 4)
    assert running(ground).machine.state is State.READY
    assert ground.admission.decision.reason.value == "protected"
    ground.admission.freeze()  # the owner pauses: not before this round has ended
    assert ground.admission.decision.state is AdmissionState.RUNNING
    pid = await worker_of(ground)
    running(ground).step(lambda: running(ground).machine.abandon("enough"))
    await ended(ground)
    assert is_gone(pid)
    assert_nothing_left(ground)
    assert ground.store.outcomes() == {"abandoned": 1}


async def test_training_that_fails_is_told_with_its_reason_and_the_worker_is_gone(ground, bundle):
    ground.offered(offer_of(ground, bundle))  # and there are no data
    await ground.until(lambda: refusals(ground))
    assert refusals(ground)[0].reason == "training-failed"
    assert "no-data" in refusals(ground)[0].detail or "holds no" in refusals(ground)[0].detail
    await ended(ground)
    assert_nothing_left(ground)


async def test_a_graph_of_another_size_than_offered_is_not_trained_into_a_round(ground, bundle):
    samples(ground)
    offer = offer_of(ground, bundle)
    ground.offered(replace(offer, dim=offer.dim + 1, weights=blob(ground, bundle.weights + bytes(4))))
    await ground.until(lambda: refusals(ground))
    assert refusals(ground)[0].reason == "training-failed"
    await ended(ground)
    assert ground.store.burn_reserved() == 0
    assert_nothing_left(ground)


async def test_a_worker_that_was_paused_until_the_deadline_is_killed_and_never_runs_again(ground):
    ground.offered(hanging(ground))
    pid = await worker_of(ground)
    ground.admission.freeze()
    assert ground.admission.decision.state is AdmissionState.PAUSED
    await ground.until(lambda: "T" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    ground.clock.offset_s = 1e9
    await ended(ground)
    assert is_gone(pid)
    assert [refusal.reason for refusal in refusals(ground)] == ["not-admitted"]
    assert "paused until the round's deadline" in refusals(ground)[0].detail
    assert_nothing_left(ground)


async def test_whoever_asks_for_the_end_waits_for_it_also_when_one_of_them_gives_up(ground):
    ground.offered(hanging(ground))
    pid = await worker_of(ground)
    driver = running(ground)
    driver.step(lambda: driver.machine.abandon("enough"))
    impatient = asyncio.create_task(driver.close())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    await driver.close()
    assert is_gone(pid)
    assert_nothing_left(ground)


async def test_a_new_offer_ends_the_old_worker_before_it_starts_another(ground):
    first = hanging(ground)
    ground.offered(first)
    pid = await worker_of(ground)
    ground.offered(replace(first, round=2))
    await ground.until(lambda: running(ground).offer.round == 2)
    assert is_gone(pid)
    assert await worker_of(ground) != pid


async def test_a_worker_that_dies_is_a_refusal(ground):
    ground.offered(hanging(ground))
    os.kill(await worker_of(ground), 9)
    await ground.until(lambda: refusals(ground))
    assert refusals(ground)[0].reason == "training-failed"
    assert "exit status -9" in refusals(ground)[0].detail
    await ended(ground)
    assert_nothing_left(ground)


async def test_by_the_offers_deadline_a_device_without_the_model_asks_for_it_and_refuses(ground):
    ground.offered(replace(an_offer(), ready_deadline=int(time.time()) + 2))
    await ground.until(lambda: refusals(ground))
    context = context_of(FLEET, ground.identity.device_id, Up.WANT)
    wants = [verify(m, ground.identity.key.public_key(), context) for m in ground.wire.messages("want")]
    assert decode(wants[0], Want) == Want(an_offer().graph.sha256)
    assert [refusal.reason for refusal in refusals(ground)] == ["missing-blob"]
    await ended(ground)
    assert_nothing_left(ground)


async def test_a_device_that_is_not_admitted_by_the_deadline_says_why(ground):
    ground.admission.freeze()
    offer = replace(hanging(ground), ready_deadline=int(time.time()) + 2)
    ground.offered(offer)
    await ground.until(lambda: refusals(ground))
    assert (refusals(ground)[0].reason, refusals(ground)[0].detail) == (
        "not-admitted",
        "paused by the device's owner",
    )
    await ended(ground)
    assert_nothing_left(ground)


async def test_without_a_prekey_at_the_coordinator_the_round_is_refused(ground, bundle):
    samples(ground)
    ground.offered(replace(offer_of(ground, bundle), phase_seconds=1))
    await ground.until(lambda: refusals(ground))
    assert refusals(ground)[0].reason == "unknown-prekey"
    await ended(ground)
    assert_nothing_left(ground)


async def test_an_offer_beyond_the_owners_consent_starts_nothing(tmp_path, identity, store):
    ground = make_ground(tmp_path, identity, store, Consent(sources=frozenset({"other"})))
    async with serving(ground):
        ground.offered(an_offer())
        await ground.until(lambda: refusals(ground))
        assert refusals(ground)[0].reason == "no-such-source"
        await ended(ground)
        assert running(ground)._worker is None
    assert store.outcomes() == {"no-such-source": 1}


async def test_a_refusal_with_another_reason_than_before_a_restart_ends_the_round_all_the_same(ground, store):
    """The first word stands, and is not said differently; nothing else depends on it."""
    store.sign_once("demo", 1, 0, "refusal", b"another body", lambda body: body)
    ground.offered(hanging(ground))
    os.kill(await worker_of(ground), 9)
    await ended(ground)
    assert refusals(ground) == []
    assert store.outcomes() == {"training-failed": 1}


async def test_a_model_that_is_here_goes_into_service_before_the_device_trains(ground, bundle, tmp_path):
    slots_dir = tmp_path / "model"
    ground.client._parts = dataclasses.replace(ground.parts, landed=ModelSlots(slots_dir).landed)
    offer = offer_of(ground, bundle)
    ground.offered(offer)
    await ground.until(lambda: ground.client.round and running(ground).machine.state is not State.FETCHING)
    (slot,) = slots(slots_dir)
    assert (slot.job, slot.round, slot.dim) == (offer.job, offer.round, offer.dim)
    assert (slots_dir / slot.weights).read_bytes() == bundle.weights


async def test_a_full_disk_keeps_a_model_out_of_service_and_the_device_in_the_round(ground, bundle, caplog):
    def full(_offer, _files):
        raise OSError(errno.ENOSPC, "No space left on device")

    ground.client._parts = dataclasses.replace(ground.parts, landed=full)
    ground.offered(offer_of(ground, bundle))
    await ground.until(lambda: ground.client.round and running(ground).machine.state is not State.FETCHING)
    assert running(ground).outcome is None
    assert "cannot be put into service" in caplog.text
