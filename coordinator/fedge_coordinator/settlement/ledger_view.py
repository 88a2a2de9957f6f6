"""Reads a ledger as an auditor does: from its lines alone."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedge_coordinator.settlement.checkpoints import checkpoint_of, committee_fault
from fedge_coordinator.settlement.documents import CommitteeSignature, hex_bytes, hex_text
from fedge_coordinator.settlement.errors import LedgerCorruptError
from fedge_coordinator.settlement.ledger_lines import (
    GENESIS,
    CheckpointPublished,
    DeviceRegistered,
    JobOpened,
    Paid,
    PoolFunded,
    RootProposed,
    Statement,
    line_hash,
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
    reader = LedgerReader(members, threshold)
    reader.take(lines)
    return reader.view(job_id)


@dataclass
class _Job:
    spec_hash: bytes = bytes(32)
    genesis_model_hash: bytes = bytes(32)
    checkpoints: list[tuple[bytes, Checkpoint]] = field(default_factory=list)
    roots: list[RewardRoot] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    funded: int = 0


class LedgerReader:
    """Reads a ledger that grows: each line is verified once. `rows` lines were read; `head` is the hash of the last."""

    def __init__(self, members: frozenset[bytes], threshold: int) -> None:
        self.rows = 0
        self.head = GENESIS
        self._members = members
        self._threshold = threshold
        self._jobs: defaultdict[str, _Job] = defaultdict(_Job)
        self._devices: dict[bytes, RegisteredDevice] = {}

    def take(self, lines: Iterable[bytes]) -> None:
        """Verify and take in the lines that follow. After an error this reader is not to be used again.

        Raises:
            LedgerCorruptError: when a line is altered, or a statement lacks the signatures that it needs.
        """
        content = list(lines)
        for statement in read_lines(content, self._members, first=self.rows, previous=self.head):
            self._take(statement)
        if content:
            self.rows, self.head = self.rows + len(content), line_hash(content[-1])

    def view(self, job_id: bytes) -> PublicView:
        """What has been read of a job."""
        job = self._jobs.get(hex_text(job_id), _Job())
        return PublicView(
            source=f"ledger of {self.rows} lines",
            job_id=job_id,
            spec_hash=job.spec_hash,
            genesis_model_hash=job.genesis_model_hash,
            checkpoints=tuple(job.checkpoints),
            reward_roots=tuple(job.roots),
            dropped_epochs=frozenset(),
            payments=tuple(job.payments),
            devices=dict(self._devices),
            funded=job.funded,
            committee=self._members,
            threshold=self._threshold,
            devices_domain=_DOMAIN,
            models_domain=_DOMAIN,
            rewards_domain=_DOMAIN,
        )

    def _take(self, statement: Statement) -> None:
        match statement:
            case DeviceRegistered():
                binding = _checked_binding(statement)
                self._devices[binding.device] = RegisteredDevice(binding.device_id, frozenset({binding.payout}))
            case CheckpointPublished(checkpoint=fields, signatures=signatures):
                checkpoint = checkpoint_of(fields)
                self._require(digest(_DOMAIN, checkpoint), signatures, "checkpoint")
                self._jobs[hex_text(checkpoint.job_id)].checkpoints.append((struct_hash(checkpoint), checkpoint))
            case RootProposed():
                root = RewardRoot(
                    hex_bytes(statement.job_id),
                    statement.epoch,
                    hex_bytes(statement.root),
                    int(statement.total),
                    hex_bytes(statement.data_hash),
                )
                self._require(digest(_DOMAIN, root), statement.signatures, "root")
                self._jobs[statement.job_id].roots.append(root)
            case JobOpened():
                job = self._jobs[statement.job_id]
                job.spec_hash = hex_bytes(statement.spec_hash)
                job.genesis_model_hash = hex_bytes(statement.genesis_model_hash)
            case PoolFunded():
                self._jobs[statement.job_id].funded += int(statement.amount)
            case Paid():
                self._jobs[statement.job_id].payments.append(
                    Payment(
                        hex_bytes(statement.account),
                        hex_bytes(statement.recipient),
                        int(statement.amount),
                        int(statement.cumulative),
                    )
                )

    def _require(self, message: bytes, signatures: tuple[CommitteeSignature, ...], what: str) -> None:
        fault = committee_fault(message, signatures, self._members, self._threshold)
        if fault is not None:
            raise LedgerCorruptError(f"a {what} of the ledger is not authorised: {fault}")


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
