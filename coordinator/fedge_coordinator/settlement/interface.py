"""What the coordinator asks of settlement, whichever way it is carried: an EVM chain or the local ledger.

Recording (the methods that take `connection`) needs no network. It writes within the caller's transaction when one is
given, so that a round and its checkpoint are committed together or not at all; nothing that such a method returns may
be published before that commit. What is recorded is carried out by `advance`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection

from fedge_coordinator.settlement.documents import EpochDocument, RoundBody, RoundRecord
from fedge_coordinator.settlement.view import PublicView
from fedge_protocol.eip712 import DeviceBinding, Domain


@dataclass(frozen=True, slots=True)
class Domains:
    """The EIP-712 domains of the three verifying contracts; all zero without a chain."""

    devices: Domain = field(default_factory=Domain)
    models: Domain = field(default_factory=Domain)
    rewards: Domain = field(default_factory=Domain)


@dataclass(frozen=True, slots=True)
class SignedBinding:
    """A device's consent to be registered, as enrolment received it."""

    binding: DeviceBinding
    signature: bytes


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What a job starts from. Hashes are SHA-256 of the specification and the first weights; funds in token units."""

    fleet: str
    job: str
    spec_hash: bytes
    genesis_model_hash: bytes
    initial_funds: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """A device's rewards in one job, in token units: earned by the last epoch, and paid out so far."""

    earned: int
    paid: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not final yet. `blocked` names each entry that was refused, with the reason."""

    waiting: int
    unconfirmed: int
    failed: int
    oldest_age_s: float
    blocked: tuple[str, ...]


class Settlement(Protocol):
    """Registration, provenance and rewards of a fleet's jobs."""

    @property
    def domains(self) -> Domains:
        """Where devices' and the committee's signatures count."""
        ...  # pragma: no cover

    async def register_devices(self, bindings: Sequence[SignedBinding], *, connection: Connection | None = None) -> int:
        """Record devices that consented; those recorded before are passed over. Returns the number of new ones.

        Raises:
            BindingRefusedError: when a binding is unsigned, expired or contradicts an earlier one. Nothing is recorded.
        """
        ...  # pragma: no cover

    async def open_job(self, terms: JobTerms, *, connection: Connection | None = None) -> bytes:
        """Create a job and fund its pool; the same terms again change nothing. Returns the 32-byte job id.

        Raises:
            EquivocationError: when the job was opened with other terms.
        """
        ...  # pragma: no cover

    async def publish_checkpoint(self, body: RoundBody, *, connection: Connection | None = None) -> RoundRecord:
        """Sign and record a round; the same body again returns the same record. Rounds of a job count 1, 2, 3, ...

        Raises:
            UnknownJobError: when the job was not opened.
            EquivocationError: when this round was recorded with another body, or is not the next one.
            DocumentError: when the body is empty of participants or weight, or contradicts the round before it.
        """
        ...  # pragma: no cover

    async def settle_epoch(self, job_id: bytes, *, connection: Connection | None = None) -> EpochDocument | None:
        """Fold all rounds since the last epoch into a signed reward root; None when there is nothing new to pay.

        Raises:
            UnknownJobError: when the job was not opened.
            PoolExhaustedError: when the ledger's pool does not cover the total (a chain's refusal shows in `Backlog`).
        """
        ...  # pragma: no cover

    async def last_epoch(self, job_id: bytes) -> EpochDocument | None:
        """Return the epoch that was recorded last; None before the first one."""
        ...  # pragma: no cover

    async def claim_all(self, job_id: bytes) -> int:
        """Pay every account what the active root owes it. Returns the number of accounts for which payment began."""
        ...  # pragma: no cover

    async def balances(self, job_id: bytes) -> Mapping[bytes, Balance]:
        """Return every earning device's balance, ascending by address."""
        ...  # pragma: no cover

    async def advance(self) -> Backlog:
        """Carry the backlog one step further. Call it every second or so, and after recording something."""
        ...  # pragma: no cover

    async def carried(self, job_id: bytes) -> Mapping[int, bytes]:
        """Return the transaction hash of each round whose checkpoint has been mined; empty without a chain."""
        ...  # pragma: no cover

    async def view(self, job_id: bytes) -> PublicView:
        """Read everything public about a job, as an auditor would."""
        ...  # pragma: no cover
