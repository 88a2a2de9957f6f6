"""From the rounds of an epoch to the cumulative reward root: pure, deterministic, recomputed by the audit."""

import hashlib
from collections.abc import Mapping, Sequence

from fedge_coordinator.settlement.checkpoints import checkpoint_of
from fedge_coordinator.settlement.documents import (
    Earning,
    EpochDocument,
    EpochRound,
    RoundRecord,
    encode_document,
    hex_bytes,
    hex_text,
)
from fedge_protocol.eip712 import RewardRoot, job_id, struct_hash
from fedge_protocol.merkle import MerkleTree, reward_leaf, standard_tree
from fedge_protocol.rewards import fold, participation_v1


def round_amounts(record: RoundRecord) -> dict[bytes, int]:
    """Return what each participant of a round earned, in token units."""
    weights = {hex_bytes(participant.device): participant.weight for participant in record.body.participants}
    return participation_v1(int(record.body.budget), weights)


def cumulative_of(document: EpochDocument | None) -> dict[bytes, int]:
    """Return what every account has earned up to and including an epoch; nothing before the first."""
    if document is None:
        return {}
    return {hex_bytes(earning.account): int(earning.cumulative) for earning in document.earnings}


def build_epoch(
    fleet: str, job: str, epoch: int, previous: Mapping[bytes, int], records: Sequence[RoundRecord]
) -> EpochDocument:
    """Fold the rounds of an epoch into the cumulative earnings before it."""
    cumulative = fold(previous, (round_amounts(record) for record in records))
    return EpochDocument(
        fleet=fleet,
        job=job,
        job_id=hex_text(job_id(fleet, job)),
        epoch=epoch,
        rounds=tuple(
            EpochRound(
                round=record.body.round,
                head=hex_text(struct_hash(checkpoint_of(record.checkpoint))),
                budget=record.body.budget,
            )
            for record in records
        ),
        earnings=tuple(
            Earning(hex_text(account), str(total - previous.get(account, 0)), str(total))
            for account, total in cumulative.items()
        ),
        root=hex_text(reward_tree(job_id(fleet, job), cumulative).root),
        total=str(sum(cumulative.values())),
    )


def reward_tree(job: bytes, cumulative: Mapping[bytes, int]) -> MerkleTree:
    """Build the StandardMerkleTree of all accounts; leaf `i` belongs to the i-th account of the mapping."""
    return standard_tree([reward_leaf(job, account, total) for account, total in cumulative.items()])


def reward_root(document: EpochDocument) -> RewardRoot:
    """Return the structure that the committee signs for an epoch document."""
    return RewardRoot(
        job_id=hex_bytes(document.job_id),
        epoch=document.epoch,
        root=hex_bytes(document.root),
        total=int(document.total),
        data_hash=hashlib.sha256(encode_document(document)).digest(),
    )
