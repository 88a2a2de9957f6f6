"""A fleet without I/O: the coordinator's round machine against device machines, with real cryptography throughout.

Messages go through their real encoding and real signatures' places; certificates are checked by a stand-in map, since
issuing them belongs to enrolment's own tests.
"""

import datetime as dt
import hashlib
import os
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from fedge_agent.federation import effects as device_effects
from fedge_agent.federation.consent import Consent
from fedge_agent.federation.machine import DeviceRound
from fedge_coordinator.rounds.effects import RoundAborted, RoundSummed, Send
from fedge_coordinator.rounds.inputs import Entry, Input, Kind
from fedge_coordinator.rounds.machine import RoundMachine, Verdict
from fedge_coordinator.rounds.plan import RoundPlan
from fedge_protocol.cose import decode, encode, sign_raw
from fedge_protocol.eip712 import Domain, Receipt, job_id
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.ids import device_id_of
from fedge_protocol.messages import (
    BlobRef,
    Cohort,
    Down,
    Inbound,
    Offer,
    PrekeyStatement,
    Ready,
    Round,
    Survivors,
    Training,
    Unmask,
    UnmaskRequest,
    UnmaskShares,
    prekey_statement,
)
from fedge_protocol.receipts import sign_receipt
from fedge_protocol.sealing import unseal
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.prekeys import Prekey, generate
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.rotation import rotate
from fedge_protocol.secp256k1 import ChainKey

FLEET = "test"
PHASE_S = 10
ANYTHING = Consent(sources=frozenset({"watch"}), allow_small_cohort=True)
ANSWERS = {
    Down.ROUND: Kind.SHARES,
    Down.INBOUND: Kind.MASKED,
    Down.SURVIVORS: Kind.SURVIVOR,
    Down.UNMASK_REQUEST: Kind.UNMASK,
}


def certificate_of(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=900))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(eq=False)
class Device:
    """One device: keys, a machine, and a "worker" that masks a known vector.

    `revealed` holds, by seat, which of the two secrets of a peer it gave a share of: True for its mask key.
    """

    update: npt.NDArray[np.float32]
    samples: int = 40
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    chain: ChainKey = field(default_factory=ChainKey.generate)
    machine: DeviceRound = field(init=False)
    outbox: dict[Kind, bytes] = field(default_factory=dict)
    outcome: device_effects.Finished | None = None
    quantised: npt.NDArray[np.uint16] = field(init=False)
    burned: list[int] = field(default_factory=list)
    revealed: dict[int, set[bool]] = field(default_factory=dict)
    dead: bool = False

    def __post_init__(self) -> None:
        spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.name = device_id_of(spki)
        self.certificate = certificate_of(self.key, self.name)
        self.prekeys: dict[int, Prekey] = {p.prekey_id: p for p in generate(1, 8)}

    def sign_statement(self, statement: bytes) -> bytes:
        return sign_raw(self.key, statement)

    def sign_receipt(self, domain: Domain, receipt: Receipt) -> bytes:
        return sign_receipt(self.chain, domain, receipt)

    def statement(self, prekey_id: int) -> PrekeyStatement:
        prekey = self.prekeys[prekey_id]
        signed = prekey_statement(FLEET, self.name, prekey_id, prekey.mask_public, prekey.channel_public)
        return PrekeyStatement(prekey_id, prekey.mask_public, prekey.channel_public, sign_raw(self.key, signed))


class Fleet:
    """Devices, one coordinator machine with its journal, and a network that can lose, repeat and reorder."""

    def __init__(
        self,
        sizes: int,
        *,
        dim: int = 200,
        target: int | None = None,
        minimum: int = 2,
        seed: int = 1,
        floor: int = 0,
        consent: Consent = ANYTHING,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.dim = dim
        self.now_ms = 1_000_000
        self.blobs: dict[bytes, bytes] = {}
        self.journal: list[Input] = []
        self.devices = [Device(rng.normal(0, 0.02, dim).astype(np.float32), 10 * (k + 1)) for k in range(sizes)]
        self.by_name = {device.name: device for device in self.devices}
        self.downs: deque[Send] = deque()
        self.ups: deque[tuple[Device, Kind]] = deque()
        self.outcome: RoundSummed | RoundAborted | None = None
        self.refused: list[tuple[str, str]] = []
        seed_bytes, seal_key = os.urandom(32), X25519PrivateKey.generate()
        weights = rng.normal(size=dim).astype("<f4").tobytes()
        offer = Offer(
            version=1,
            job="demo",
            job_id=job_id(FLEET, "demo"),
            round=1,
            attempt=0,
            spec_hash=bytes(32),
            graph=BlobRef(bytes(32), 1),
            weights=BlobRef(hashlib.sha256(weights).digest(), len(weights)),
            dim=dim,
            training=Training("watch", 1, 0.1, 0.0, 0.0, 1.0, 1000, 10, 16),
            cohort=Cohort(minimum=minimum, target=target or sizes, allow_small=consent.allow_small_cohort),
            suite=1,
            seed_commitment=hashlib.sha256(seed_bytes).digest(),
            seal_key=seal_key.public_key().public_bytes_raw(),
            chain_id=0,
            registry=bytes(20),
            ready_deadline=self.now_ms // 1000 + 60,
            phase_seconds=PHASE_S,
        )
        self.plan = RoundPlan(
            fleet=FLEET,
            offer=offer,
            seed=seed_bytes,
            seal_private=seal_key.private_bytes_raw(),
            rotation_seed=os.urandom(32),
            opened_ms=self.now_ms,
            floor=floor,
        )
        self.coordinator = RoundMachine(self.plan, self.blobs.__getitem__)
        for device in self.devices:
            device.machine = DeviceRound(
                fleet=FLEET,
                device=device.name,
                offer=offer,
                offer_hash=self.plan.offer_hash,
                consent=consent,
                signer=device,
                check_certificate=self.check_certificate,
                random=os.urandom,
            )

    def check_certificate(self, der: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
        for device in self.devices:
            if device.certificate == der:
                return device.name, device.key.public_key()
        raise RefusedError(Reason.BAD_SIGNATURE, "a certificate of nobody")

    # --- the coordinator's driver, in memory

    @property
    def now(self) -> float:
        """The devices' monotonic clock, seconds."""
        return self.now_ms / 1000

    def restart(self) -> None:
        """Kill the coordinator: what is not in the journal is gone."""
        self.downs.clear()
        self.coordinator = self.replay()
        self.feed(Kind.RESUME)
        if self.coordinator.ended is not None:
            self.outcome = self.coordinator.ended
        self.resend()

    def replay(self) -> RoundMachine:
        """Another coordinator that reads the journal."""
        machine = RoundMachine(self.plan, self.blobs.__getitem__)
        for entry in self.journal:
            machine.apply(entry)
        return machine

    def feed(self, kind: Kind, device: str = "", body: bytes = b"") -> Verdict | None:
        entry = Input(at_ms=self.now_ms, kind=kind, device=device, body=body)
        try:
            verdict, todo = self.coordinator.apply(decode(encode(entry), Input))
        except RefusedError as error:
            self.refused.append((str(kind), str(error.reason)))
            return None
        if verdict is Verdict.ACCEPTED:
            self.journal.append(entry)
        for effect in todo:
            if isinstance(effect, Send):
                self.downs.append(effect)
            elif isinstance(effect, RoundSummed | RoundAborted):
                self.outcome = effect
        return verdict

    def resend(self) -> None:
        self.downs.extend(self.coordinator.outstanding())

    def tick(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.feed(Kind.TICK)

    # --- the devices' driver, in memory

    def train(self, *devices: Device) -> None:
        for device in devices or self.devices:
            unix_now = self.now_ms / 1000
            self.run(device, device.machine.start(now=self.now, unix_now=unix_now))
            self.run(device, device.machine.fetched())
            self.run(device, device.machine.admitted())
            prekey = device.prekeys[1]
            self.run(device, device.machine.trained(device.samples, self.dim, prekey, now=self.now, unix_now=unix_now))

    def run(self, device: Device, todo: list[device_effects.Effect]) -> None:
        for effect in todo:
            match effect:
                case device_effects.Say(kind=kind, body=body):
                    self.signed_once(device, Kind(str(kind)), encode(body))
                    if isinstance(body, Unmask):
                        self.note_revealed(device, body)
                case device_effects.MaskUpdate():
                    device.quantised = quantise(
                        rotate(device.update, effect.rotation_seed),
                        coordinate_range=effect.coordinate_range,
                        levels=effect.levels,
                        weight=effect.weight,
                        weight_max=effect.weight_max,
                    )
                    vector = (
                        mask(
                            device.quantised, self_seed=effect.self_seed, pairs=effect.pairs, suite=Suite(effect.suite)
                        )
                        .astype("<u2")
                        .tobytes()
                    )
                    reference = BlobRef(hashlib.sha256(vector).digest(), len(vector))
                    self.blobs[reference.sha256] = vector
                    self.run(device, device.machine.masked(reference))
                case device_effects.BurnPrekey(prekey_id=prekey_id):
                    device.burned.append(prekey_id)
                case device_effects.Finished():
                    device.outcome = effect
                case _:
                    pass

    def signed_once(self, device: Device, kind: Kind, body: bytes) -> None:
        """What the device's store does: never two bodies of one kind."""
        assert device.outbox.setdefault(kind, body) == body, f"{kind} was signed twice"

    def note_revealed(self, device: Device, body: Unmask) -> None:
        plain = unseal(self.plan.seal_private, body.sealed, body.context)
        for answer in decode(plain, UnmaskShares).answers:
            device.revealed.setdefault(answer.seat, set()).add(answer.of_mask_key)

    def say(self, device: Device, kind: Kind) -> Verdict | None:
        """Deliver what a device has to say, as often as asked."""
        body = device.outbox[kind]
        if kind is Kind.READY:
            ready = decode(body, Ready)
            body = encode(
                Entry(device.name, ready, device.statement(ready.prekey_id), device.certificate, device.chain.address)
            )
        return self.feed(kind, device.name, body)

    def hear(self, send: Send) -> None:
        """Deliver one message of the coordinator to a device and let it answer."""
        device = self.by_name[send.device]
        if device.dead:
            return
        answer = self.tell(device, send.kind, encode(send.body))
        if answer is not None:
            self.ups.append((device, answer))

    def tell(self, device: Device, kind: Down, body: bytes) -> Kind | None:
        """Have a device hear a body signed by whoever is the coordinator. What it has to answer, if anything."""
        machine, now = device.machine, self.now
        try:
            match kind:
                case Down.ROUND:
                    todo = machine.round_opened(decode(body, Round), body, now=now)
                case Down.INBOUND:
                    todo = machine.inbound(decode(body, Inbound), now=now)
                case Down.SURVIVORS:
                    todo = machine.survivors(decode(body, Survivors), now=now)
                case Down.UNMASK_REQUEST:
                    todo = machine.unmask(decode(body, UnmaskRequest), now=now)
                case _:
                    raise AssertionError(kind)
        except RefusedError as error:
            self.refused.append((str(kind), str(error.reason)))
            return None
        self.run(device, todo)
        return ANSWERS[kind] if ANSWERS[kind] in device.outbox else None

    def pump(self, *, until: object = None) -> None:
        """Deliver until nothing is under way."""
        while (self.downs or self.ups) and self.outcome is None:
            if self.ups:
                device, kind = self.ups.popleft()
                if not device.dead:
                    self.say(device, kind)
                continue
            if until is not None and self.coordinator.phase == until:
                return
            self.hear(self.downs.popleft())

    def settle(self) -> None:
        """What a network that has become quiet leads to: everybody resends, deadlines pass, the round ends."""
        for _ in range(8):
            self.ups.extend((d, kind) for d in self.devices for kind in d.outbox if kind is not Kind.REFUSAL)
            self.resend()
            self.pump()
            if self.outcome is not None:
                return
            self.tick(PHASE_S + 1)
        raise AssertionError("the round never ends")

    # --- what must be true

    def expected_sum(self, survivors: list[Device]) -> npt.NDArray[np.uint16]:
        total = np.zeros_like(survivors[0].quantised)
        for device in survivors:
            total += device.quantised
        return total
