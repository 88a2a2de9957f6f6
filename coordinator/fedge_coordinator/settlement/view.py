"""What the public sees of a job on the chain or in the ledger: the trusted side of an audit."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedge_protocol.eip712 import Checkpoint, Domain, RewardRoot


@dataclass(frozen=True, slots=True)
class RegisteredDevice:
    """A device's registration and every payout account it ever announced (the first one at registration)."""

    device_id: bytes
    payouts: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that left the pool: who earned it, who received it, how much, and the account's total afterwards."""

    account: bytes
    recipient: bytes
    amount: int
    cumulative: int


@dataclass(frozen=True, slots=True)
class PublicView:
    """One job. Tuples are in the order of publication.

    Attributes:
        source: what was read, for the report: "chain 31337" or "ledger, 12 rows".
        checkpoints: published checkpoints with the head that each left behind.
        reward_roots: proposed roots.
        dropped_epochs: epochs whose roots a guardian dropped before they could pay.
        funded: token units that the pool received.
        committee: everybody whose signature counts or counted.
        threshold: the smallest number of signatures that ever sufficed.
    """

    source: str
    job_id: bytes
    spec_hash: bytes
    genesis_model_hash: bytes
    checkpoints: tuple[tuple[bytes, Checkpoint], ...]
    reward_roots: tuple[RewardRoot, ...]
    dropped_epochs: frozenset[int]
    payments: tuple[Payment, ...]
    devices: Mapping[bytes, RegisteredDevice]
    funded: int
    committee: frozenset[bytes]
    threshold: int
    devices_domain: Domain
    models_domain: Domain
    rewards_domain: Domain
