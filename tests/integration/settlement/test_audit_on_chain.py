"""An auditor without any key: reads the chain and the published folder, and finds every lie."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.integration.settlement.chain_fixture import POLICY, Anvil, deployment_terms, drain
from tests.unit.coordinator.settlement.fleet_fixture import (
    JOB_ID,
    bindings,
    job_terms,
    make_fleet,
    make_round,
    weights_after,
)

from fedge_coordinator.settlement.audit import audit
from fedge_coordinator.settlement.bundle import read_bundle, write_epoch, write_record, write_weights
from fedge_coordinator.settlement.chain import ChainSettlement
from fedge_coordinator.settlement.chain_reader import ChainReader
from fedge_coordinator.settlement.contracts import DEVICES, REWARDS, load
from fedge_coordinator.settlement.deploy import deploy
from fedge_coordinator.settlement.manifest import Manifest
from fedge_coordinator.settlement.rpc import JsonRpc
from fedge_coordinator.settlement.signer import LocalSigner

FLEET = make_fleet(4)


@pytest.fixture
async def published(
    engine: Engine, rpc: JsonRpc, manifest: Manifest, committee: list[LocalSigner], sender: LocalSigner, tmp_path: Path
) -> ChainSettlement:
    settlement = ChainSettlement(engine, rpc, manifest, committee=committee, sender=sender, policy=POLICY)
    root = tmp_path / "bundle"
    await settlement.register_devices(bindings(FLEET, settlement.domains))
    await settlement.open_job(job_terms())
    write_weights(root, 0, weights_after(0))
    for number in (1, 2):
        write_record(root, await settlement.publish_checkpoint(make_round(FLEET, number, settlement.domains)))
        write_weights(root, number, weights_after(number))
        document = await settlement.settle_epoch(JOB_ID)
        assert document is not None
        write_epoch(root, document)
        await drain(settlement)
        await settlement.claim_all(JOB_ID)
        await drain(settlement)
    return settlement


async def test_what_was_published_agrees_with_the_chain(
    published: ChainSettlement, anvil: Anvil, manifest: Manifest, tmp_path: Path
):
    evidence = read_bundle(tmp_path / "bundle")
    async with JsonRpc([anvil.url]) as keyless:
        view = await ChainReader(keyless, manifest).view(JOB_ID)
    report = audit(evidence, view, round_budget=1000)
    assert report.failures == ()
    assert report.source == "chain 31337"
    assert sum(payment.amount for payment in view.payments) == 2000
    tampered = bytearray(evidence.records[1])
    tampered[len(tampered) // 2] ^= 1
    assert not audit(dataclasses.replace(evidence, records={**evidence.records, 1: bytes(tampered)}), view).ok


async def test_each_round_names_the_transaction_that_carried_it(published: ChainSettlement, rpc: JsonRpc):
    carried = await published.carried(JOB_ID)
    assert sorted(carried) == [1, 2]
    for tx_hash in carried.values():
        receipt = await rpc.call("eth_getTransactionReceipt", "0x" + tx_hash.hex())
        assert receipt["status"] == "0x1"


async def test_a_device_that_moves_its_payout_account_is_still_paid_rightly(
    published: ChainSettlement, rpc: JsonRpc, manifest: Manifest, tmp_path: Path
):
    moved = FLEET[0]
    old_payout = "0x" + moved.payout.hex()
    await rpc.call("anvil_impersonateAccount", old_payout)
    await rpc.call("anvil_setBalance", old_payout, hex(10**18))
    calldata = load(DEVICES).encode_call("proposePayout", moved.key.address, b"\x42" * 20)
    target = {"from": old_payout, "to": manifest.contracts[DEVICES].address, "data": "0x" + calldata.hex()}
    await rpc.call("eth_sendTransaction", target)
    await rpc.call("evm_increaseTime", hex(3 * 86400))  # blocks in quick succession run ahead of the clock
    await rpc.call("anvil_mine", "0x1")
    root = tmp_path / "bundle"
    write_record(root, await published.publish_checkpoint(make_round(FLEET, 3, published.domains)))
    document = await published.settle_epoch(JOB_ID)
    assert document is not None
    write_epoch(root, document)
    await drain(published)
    await published.claim_all(JOB_ID)
    await drain(published)
    view = await published.view(JOB_ID)
    assert {payment.recipient for payment in view.payments if payment.account == moved.key.address} == {
        moved.payout,
        b"\x42" * 20,
    }
    assert audit(read_bundle(root), view).ok


async def test_a_root_that_the_guardian_dropped_pays_nobody_and_the_next_one_makes_up_for_it(
    engine: Engine, rpc: JsonRpc, committee: list[LocalSigner], sender: LocalSigner, tmp_path: Path
):

    manifest = await deploy(rpc, sender, deployment_terms(committee, sender, activation_delay_s=3600))
    settlement = ChainSettlement(engine, rpc, manifest, committee=committee, sender=sender, policy=POLICY)
    root = tmp_path / "bundle"
    await settlement.register_devices(bindings(FLEET, settlement.domains))
    await settlement.open_job(job_terms())
    for number in (1, 2):
        write_record(root, await settlement.publish_checkpoint(make_round(FLEET, number, settlement.domains)))
        document = await settlement.settle_epoch(JOB_ID)
        assert document is not None
        write_epoch(root, document)
        if number == 1:
            await drain(settlement)
            drop = load(REWARDS).encode_call("dropRoot", JOB_ID, 1)
            await rpc.call(
                "eth_sendTransaction",
                {
                    "from": "0x" + sender.address.hex(),
                    "to": manifest.contracts[REWARDS].address,
                    "data": "0x" + drop.hex(),
                },
            )
    await drain(settlement)
    assert await settlement.claim_all(JOB_ID) == 0
    await rpc.call("evm_increaseTime", "0xe11")
    await rpc.call("anvil_mine", "0x1")
    assert await settlement.claim_all(JOB_ID) == 4
    await drain(settlement)
    view = await settlement.view(JOB_ID)
    assert view.dropped_epochs == {1}
    assert sum(payment.amount for payment in view.payments) == 2000
    assert hashlib.sha256((root / "epochs" / "000001.json").read_bytes()).digest() == view.reward_roots[0].data_hash
    assert audit(read_bundle(root), view).ok
