"""Reads a ledger as an auditor does: from its lines alone."""

from collections.abc import Iterable

from fedge_coordinator.settlement.checkpoints import checkpoint_of, committee_fault
from fedge_coordinator.settlement.documents import hex_bytes
from fedge_coordinator.settlement.errors import LedgerCorruptError
from fedge_coordinator.settlement.ledger_lines import (
    CheckpointPublished,
    DeviceRegistered,
    JobOpened,
    Paid,
    PoolFunded,
    RootProposed,
    read_lines,
)
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.view import Payment, PublicView, RegisteredDevice
from fedge_protocol.eip712 import Checkpoint, DeviceBinding, Domain, RewardRoot, digest, struct_hash
from fedge_protocol.receipts import verify_binding

_DOMAIN = Domain()


def read_ledger(lines: Iterable[bytes], job_id: bytes, members: frozenset[bytes], threshold: int) -> PublicView:
    """Return what an unbroken ledger says of a job. Who the committee is, the auditor must know from elsewhere.

    Raises:
        LedgerCorruptError: when a line is altered, or a statement lacks the signatures that it needs.
    """
    spec_hash = genesis_model_hash = bytes(32)
    checkpoints: list[tuple[bytes, Checkpoint]] = []
    roots: list[RewardRoot] = []
    payments: list[Payment] = []
    devices: dict[bytes, RegisteredDevice] = {}
    funded = rows = 0
    for statement in read_lines(lines, members):
        rows += 1
        match statement:
            case DeviceRegistered():
                binding = _checked_binding(statement)
                devices[binding.device] = RegisteredDevice(binding.device_id, frozenset({binding.payout}))
            case CheckpointPublished(checkpoint=fields, signatures=signatures):
                checkpoint = checkpoint_of(fields)
                _require(committee_fault(digest(_DOMAIN, checkpoint), signatures, members, threshold), "checkpoint")
                if checkpoint.job_id == job_id:
                    checkpoints.append((struct_hash(checkpoint), checkpoint))
            case RootProposed():
                root = RewardRoot(
                    hex_bytes(statement.job_id),
                    statement.epoch,
                    hex_bytes(statement.root),
                    int(statement.total),
                    hex_bytes(statement.data_hash),
                )
                _require(committee_fault(digest(_DOMAIN, root), statement.signatures, members, threshold), "root")
                if root.job_id == job_id:
                    roots.append(root)
            case JobOpened() if hex_bytes(statement.job_id) == job_id:
                spec_hash, genesis_model_hash = hex_bytes(statement.spec_hash), hex_bytes(statement.genesis_model_hash)
            case PoolFunded() if hex_bytes(statement.job_id) == job_id:
                funded += int(statement.amount)
            case Paid() if hex_bytes(statement.job_id) == job_id:
                payments.append(
                    Payment(
                        hex_bytes(statement.account),
                        hex_bytes(statement.recipient),
                        int(statement.amount),
                        int(statement.cumulative),
                    )
                )
    return PublicView(
        source=f"ledger of {rows} lines",
        job_id=job_id,
        spec_hash=spec_hash,
        genesis_model_hash=genesis_model_hash,
        checkpoints=tuple(checkpoints),
        reward_roots=tuple(roots),
        dropped_epochs=frozenset(),
        payments=tuple(payments),
        devices=devices,
        funded=funded,
        committee=members,
        threshold=threshold,
        devices_domain=_DOMAIN,
        models_domain=_DOMAIN,
        rewards_domain=_DOMAIN,
    )


def _checked_binding(statement: DeviceRegistered) -> DeviceBinding:
    binding = DeviceBinding(
        hex_bytes(statement.device_id),
        hex_bytes(statement.device),
        hex_bytes(statement.payout),
        hex_bytes(statement.nonce),
        statement.not_after,
    )
    if not verify_binding(_DOMAIN, binding, hex_bytes(statement.signature), recover=recover_signer):
        raise LedgerCorruptError(f"device {statement.device} did not sign its binding")
    return binding


def _require(fault: str | None, what: str) -> None:
    if fault is not None:
        raise LedgerCorruptError(f"a {what} of the ledger is not authorised: {fault}")
