"""A fleet of chain keys that signs real bindings and receipts, and rounds made of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedge_coordinator.settlement.documents import Bucket, Participant, RoundBody, hex_text
from fedge_coordinator.settlement.interface import Domains, JobTerms, SignedBinding
from fedge_protocol.eip712 import DeviceBinding, Receipt, job_id
from fedge_protocol.receipts import sign_binding, sign_receipt
from fedge_protocol.secp256k1 import ChainKey

FLEET, JOB = "lab", "digits"
JOB_ID = job_id(FLEET, JOB)
SPEC_HASH = hashlib.sha256(b"the job's specification").digest()
NOT_AFTER = 4_000_000_000


def weights_after(round_number: int) -> bytes:
    """The model file of a round; round 0 is the genesis."""
    return b"".join(bytes([round_number, index, 0, 63]) for index in range(8))


def model_hash(round_number: int) -> bytes:
    return hashlib.sha256(weights_after(round_number)).digest()


def job_terms(funds: int = 10**18) -> JobTerms:
    return JobTerms(FLEET, JOB, SPEC_HASH, model_hash(0), initial_funds=funds)


@dataclass
class Device:
    """One device: its chain key and where its rewards go."""

    number: int
    key: ChainKey = field(init=False)
    payout: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = ChainKey.from_secret(hashlib.sha256(b"device %d" % self.number).digest())
        self.payout = hashlib.sha256(b"payout %d" % self.number).digest()[:20]

    def binding(self, domains: Domains) -> SignedBinding:
        device_id = hashlib.sha256(b"identity %d" % self.number).digest()
        binding = DeviceBinding(device_id, self.key.address, self.payout, bytes(31) + b"\1", NOT_AFTER)
        return SignedBinding(binding, sign_binding(self.key, domains.devices, binding))


def make_fleet(size: int) -> list[Device]:
    """Devices in ascending order of their addresses."""
    return sorted((Device(number) for number in range(size)), key=lambda device: device.key.address)


def bindings(fleet: Sequence[Device], domains: Domains) -> list[SignedBinding]:
    return [device.binding(domains) for device in fleet]


def make_round(
    fleet: Sequence[Device], round_number: int, domains: Domains, *, budget: int = 1000, absent: Sequence[int] = ()
) -> RoundBody:
    """A round in two buckets; the device at place i has weight i + 1; those in `absent` were asked and stayed away."""
    roots = [hashlib.sha256(b"bucket %d of round %d" % (bucket, round_number)).digest() for bucket in range(2)]
    participants = []
    for place, device in enumerate(fleet):
        if place in absent:
            continue
        update_hash = hashlib.sha256(b"update of %d in round %d" % (device.number, round_number)).digest()
        receipt = Receipt(JOB_ID, round_number, place % 2, roots[place % 2], update_hash)
        participants.append(
            Participant(
                device=hex_text(device.key.address),
                weight=place + 1,
                update_hash=hex_text(update_hash),
                bucket=place % 2,
                receipt=hex_text(sign_receipt(device.key, domains.devices, receipt)),
            )
        )
    return RoundBody(
        fleet=FLEET,
        job=JOB,
        round=round_number,
        model_before=hex_text(model_hash(round_number - 1)),
        model_after=hex_text(model_hash(round_number)),
        aggregate_hash=hex_text(hashlib.sha256(b"aggregate %d" % round_number).digest()),
        cohort=tuple(hex_text(device.key.address) for device in fleet),
        buckets=tuple(Bucket(hex_text(root), attempt) for attempt, root in enumerate(roots)),
        participants=tuple(participants),
        budget=str(budget),
        metrics={"accuracy": 0.5, "loss": 1.25, "evaluated": 128, "note": "held-out"},
    )
