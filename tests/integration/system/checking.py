"""What must hold after every round, whatever was killed: the public records add up, and nobody signed twice."""

import hashlib

import numpy as np
from tests.integration.system.living_fleet import LivingFleet

from fedge_coordinator.aggregation.combine import aggregate_bytes, mean_update
from fedge_coordinator.aggregation.strategies import apply_mean
from fedge_coordinator.federation.publishing import BUCKET_PREFIX, VECTOR_PREFIX
from fedge_coordinator.rounds.evidence import recompute_total
from fedge_coordinator.settlement.bundle import read_bundle
from fedge_coordinator.settlement.documents import RoundRecord, decode_document, hex_bytes
from fedge_protocol.cose import open_signed
from fedge_protocol.messages import Up

CLIP_WEIGHT_MAX = 8
_ONCE = (Up.READY, Up.SHARES, Up.MASKED, Up.SURVIVOR, Up.UNMASK)


def check_weights_follow_from_the_published_vectors(fleet: LivingFleet, job: str, rounds: int) -> list[int]:
    """Sum the masked vectors again, remove the masks, apply the mean: the same bytes. Returns participants by round."""
    evidence = read_bundle(fleet.published / job)
    participants = []
    for number in range(1, rounds + 1):
        record = decode_document(RoundRecord, evidence.records[number])
        vectors = {
            bytes.fromhex(name.removeprefix(VECTOR_PREFIX)): content
            for (round_, name), content in evidence.files.items()
            if round_ == number and name.startswith(VECTOR_PREFIX)
        }
        found = [
            recompute_total(evidence.files[number, f"{BUCKET_PREFIX}{index}"], vectors.__getitem__)
            for index in range(len(record.body.buckets))
        ]
        totals, body = [total for _, total in found], found[0][0]
        assert hashlib.sha256(aggregate_bytes(totals)).digest() == hex_bytes(record.body.aggregate_hash)
        before = evidence.weights[number - 1]
        mean = mean_update(
            totals,
            dim=len(before) // 4,
            coordinate_range=body.coordinate_range,
            weight_max=CLIP_WEIGHT_MAX,
            rotation_seed=body.rotation_seed,
        )
        assert np.linalg.norm(mean) > 0
        assert apply_mean(before, mean, server_learning_rate=1.0) == evidence.weights[number]
        participants.append(len(record.body.participants))
    return participants


def check_nothing_was_signed_twice(fleet: LivingFleet) -> None:
    """What the broker saw of a device is what the device had stored before, at most one body a kind, round, attempt."""
    for device in fleet.devices:
        stored = device.signed()
        for kind, messages in fleet.eavesdropper.said(device.name).items():
            if kind in _ONCE:
                assert {(kind, message) for message in messages} <= stored, (device.number, kind)
                assert len({open_signed(message)[0] for message in messages}) == len(messages)
