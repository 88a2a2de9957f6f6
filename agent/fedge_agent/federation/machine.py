"""One round as a device lives it: offer, training, READY, then four short exchanges (FSA/1, `docs/protocol.md`).

Sans I/O: each method takes an event and returns the effects the driver has to carry out, in order. The machine is not
persisted. What was signed is (by the driver, before it is sent); a device that restarts in mid-round resends those
bytes and otherwise counts as dropped out, so nothing is ever signed twice.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from fedge_agent.federation.consent import Consent
from fedge_agent.federation.effects import (
    AskAdmission,
    BurnPrekey,
    Effect,
    Fetch,
    Finished,
    Hold,
    MaskUpdate,
    Say,
    SendVector,
    Train,
)
from fedge_agent.federation.refusals import refusing
from fedge_agent.federation.roster import Bucket, CertificateCheck, Expectation, check_round
from fedge_protocol.cose import encode, verify_raw
from fedge_protocol.eip712 import Domain, Receipt
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    BlobRef,
    Inbound,
    Masked,
    Offer,
    Ready,
    Refusal,
    Result,
    Round,
    Shares,
    Survivor,
    Survivors,
    Unmask,
    UnmaskAnswer,
    UnmaskRequest,
    UnmaskShares,
    Up,
    survivors_statement,
)
from fedge_protocol.sealing import seal
from fedge_protocol.secagg.member import Member
from fedge_protocol.secagg.prekeys import Prekey

_EXCHANGES: Final = 5
_LONGEST_WAIT_S: Final = 7 * 86_400.0
"""The longest that a job may wait for its devices, whatever this device's clock makes of the offer's deadline."""

_TOO_LATE: Final = frozenset({Reason.WRONG_CONTEXT, Reason.WRONG_JOB, Reason.OUT_OF_PHASE})


class State(StrEnum):
    """Where a device stands in a round."""

    IDLE = "idle"
    FETCHING = "fetching the model"
    WAITING = "waiting to be admitted"
    TRAINING = "training"
    READY = "ready"
    SHARING = "sharing keys"
    MASKING = "masking"
    UPLOADED = "update uploaded"
    SIGNED = "survivors signed"
    UNMASKED = "unmasking"
    DONE = "done"


class Signer(Protocol):
    """The device's two keys, seen from the machine."""

    def sign_statement(self, statement: bytes) -> bytes:
        """A 64-byte ES256 signature of the identity key."""
        ...

    def sign_receipt(self, domain: Domain, receipt: Receipt) -> bytes:
        """The chain key's 65-byte secp256k1 signature of the EIP-712 receipt."""
        ...


class DeviceRound:
    """The machine for one offer.

    Args:
        fleet: name of the fleet.
        device: this device's id.
        offer: the verified offer, and
        offer_hash: SHA-256 of its body.
        consent: the owner's limits.
        signer: the device's keys.
        check_certificate: see `roster.CertificateCheck`.
        random: `os.urandom` or a stand-in.
    """

    def __init__(
        self,
        *,
        fleet: str,
        device: str,
        offer: Offer,
        offer_hash: bytes,
        consent: Consent,
        signer: Signer,
        check_certificate: CertificateCheck,
        random: Callable[[int], bytes],
    ) -> None:
        self.offer = offer
        self.state = State.IDLE
        self._fleet = fleet
        self._device = device
        self._offer_hash = offer_hash
        self._consent = consent
        self._signer = signer
        self._check_certificate = check_certificate
        self._random = random
        self._expected: Expectation | None = None
        self._prekey: Prekey | None = None
        self._bucket: Bucket | None = None
        self._member: Member | None = None
        self._context = b""
        self._coordinate_range = 0.0
        self._rotation_seed = b""
        self._sharers: frozenset[int] = frozenset()
        self._vector: BlobRef | None = None
        self._survivors: tuple[tuple[int, ...], tuple[bytes, ...]] | None = None
        self._give_up_at: float | None = None

    def start(self, *, now: float, unix_now: float) -> list[Effect]:
        """Answer the offer: fetch the model, or refuse. Both clocks in seconds."""
        try:
            self._consent.check(self.offer)
        except RefusedError as refused:
            return self.refuse(refused.reason, refused.detail)
        self._give_up_at = now + self._left_s(unix_now)
        self.state = State.FETCHING
        return [Fetch(self.offer)]

    def fetched(self) -> list[Effect]:
        """Graph and weights are here and match their hashes."""
        if self.state is not State.FETCHING:
            return []
        self.state = State.WAITING
        return [AskAdmission(self.offer)]

    def admitted(self) -> list[Effect]:
        """The device may train now."""
        if self.state is not State.WAITING:
            return []
        self.state = State.TRAINING
        return [Train(self.offer)]

    def refuse(self, reason: Reason, detail: str = "") -> list[Effect]:
        """Leave the round before READY and tell the coordinator why."""
        if self.state is State.DONE:
            return []
        self.state = State.DONE
        body = Refusal(
            job=self.offer.job,
            round=self.offer.round,
            attempt=self.offer.attempt,
            reason=str(reason),
            detail=_printable(detail)[:256],
        )
        return [*self._burn(), Say(Up.REFUSAL, body, final=False), Finished(str(reason), detail)]

    def trained(self, samples: int, dim: int, prekey: Prekey, *, now: float, unix_now: float) -> list[Effect]:
        """The update is waiting in the worker.

        Args:
            samples: how many it was trained on.
            dim: parameters that the graph really has.
            prekey: reserved for this round.
            now: monotonic seconds.
            unix_now: Unix seconds.
        """
        if self.state is not State.TRAINING:
            return [BurnPrekey(prekey.prekey_id)]
        if dim != self.offer.dim:
            detail = f"the graph has {dim} parameters, the offer says {self.offer.dim}"
            return [BurnPrekey(prekey.prekey_id), *self.refuse(Reason.TRAINING_FAILED, detail)]
        rule = self.offer.training
        weight = max(1, min(rule.weight_max, -(-samples // rule.weight_unit)))
        nonce = self._random(16)
        self._prekey = prekey
        self._expected = Expectation(
            fleet=self._fleet,
            device=self._device,
            offer=self.offer,
            offer_hash=self._offer_hash,
            nonce=nonce,
            weight=weight,
            prekey_id=prekey.prekey_id,
            mask_public=prekey.mask_public,
            channel_public=prekey.channel_public,
        )
        self._give_up_at = now + self._left_s(unix_now) + _EXCHANGES * self.offer.phase_seconds
        self.state = State.READY
        ready = Ready(
            job=self.offer.job,
            round=self.offer.round,
            attempt=self.offer.attempt,
            prekey_id=prekey.prekey_id,
            weight=weight,
            nonce=nonce,
            versions=(PROTOCOL_VERSION, PROTOCOL_VERSION),
        )
        return [Hold(), Say(Up.READY, ready)]

    def refused_by_coordinator(self, kind: str, reason: str) -> list[Effect]:
        """The coordinator refused one of this round's messages for good."""
        if kind in {Up.SURVIVOR, Up.UNMASK} and reason in _TOO_LATE:
            return []  # the vector was taken: the round went on without this answer, and RESULT tells how it ended
        if kind in {Up.READY, Up.SHARES, Up.MASKED, Up.SURVIVOR, Up.UNMASK} and self.state is not State.DONE:
            return self._end("refused", f"{kind}: {reason}")
        return []

    def round_opened(self, body: Round, raw: bytes, *, now: float) -> list[Effect]:
        """ROUND: check everything, burn the prekey, share.

        Raises:
            RefusedError: the ROUND is wrong; the device stays where it is and shares nothing.
        """
        if self._expected is None or self._prekey is None:
            raise RefusedError(Reason.OUT_OF_PHASE, f"ROUND while {self.state}")
        context = hashlib.sha256(raw).digest()
        if self._member is not None:
            if context != self._context:
                raise RefusedError(Reason.EQUIVOCATION, "a second, different ROUND for this round")
            return []
        if self.state is not State.READY:
            raise RefusedError(Reason.OUT_OF_PHASE, f"ROUND while {self.state}")
        bucket = check_round(body, self._expected, self._consent, self._check_certificate)
        with refusing():
            member = Member(
                params=bucket.params,
                roster=bucket.peers,
                own=self._device,
                prekey=self._prekey,
                context=context,
                model_hash=body.model_hash,
                random=self._random,
            )
            shares = member.shares()
        self._bucket, self._member, self._context = bucket, member, context
        self._coordinate_range, self._rotation_seed = body.coordinate_range, body.rotation_seed
        self.state = State.SHARING
        self._postpone(now)
        say = Say(Up.SHARES, Shares(context=context, commitment=shares.self_commitment, sealed=shares.sealed))
        return [BurnPrekey(self._prekey.prekey_id), say]

    def inbound(self, body: Inbound, *, now: float) -> list[Effect]:
        """INBOUND: open what the peers shared and have the update masked.

        Raises:
            RefusedError: `wrong-context`, `below-threshold`, `malformed` or `bad-share`.
        """
        bucket, member = self._joined(body.context)
        if self.state is not State.SHARING:
            return []
        sharers = self._seats(body.sharers, bucket)
        peers = [seat for seat in body.sharers if seat != bucket.own]
        if len(peers) != len(body.sealed):
            raise RefusedError(Reason.MALFORMED, f"{len(body.sealed)} shares from {len(peers)} peers")
        with refusing():
            seeds = member.mask_seeds(sharers, dict(zip(peers, body.sealed, strict=True)))
        self._sharers = sharers
        self.state = State.MASKING
        self._postpone(now)
        expected = self._expectation()
        return [
            MaskUpdate(
                pairs=seeds.pairs,
                self_seed=seeds.self_seed,
                suite=int(bucket.params.suite),
                levels=bucket.params.levels,
                coordinate_range=self._coordinate_range,
                rotation_seed=self._rotation_seed,
                weight=expected.weight,
                weight_max=self.offer.training.weight_max,
            )
        ]

    def masked(self, vector: BlobRef) -> list[Effect]:
        """The worker wrote the masked vector."""
        if self.state is not State.MASKING:
            return []
        self._vector = vector
        self.state = State.UPLOADED
        receipt = self._signer.sign_receipt(
            Domain(self.offer.chain_id, self.offer.registry),
            Receipt(
                job_id=self.offer.job_id,
                round=self.offer.round,
                attempt=self.offer.attempt,
                bucket_root=self._context,
                update_hash=vector.sha256,
            ),
        )
        return [Say(Up.MASKED, Masked(context=self._context, vector=vector, receipt=receipt)), SendVector(vector)]

    def survivors(self, body: Survivors, *, now: float) -> list[Effect]:
        """SURVIVORS: sign the set, once.

        Raises:
            RefusedError: `wrong-context`, `below-threshold`, `cohort-too-small`, `equivocation` or `malformed`.
        """
        bucket, _ = self._joined(body.context)
        if self.state not in {State.UPLOADED, State.SIGNED, State.UNMASKED} or self._vector is None:
            return []
        claim = (body.survivors, body.vectors)
        if self._survivors is not None:
            if claim != self._survivors:
                raise RefusedError(Reason.EQUIVOCATION, "a second, different survivor set")
            return []
        alive = self._seats(body.survivors, bucket)
        if len(body.vectors) != len(body.survivors):
            raise RefusedError(Reason.MALFORMED, f"{len(body.vectors)} hashes for {len(body.survivors)} survivors")
        if not alive <= self._sharers:
            raise RefusedError(Reason.MALFORMED, "survivors who never shared")
        if bucket.own not in alive:
            return self._end("left-out", "the coordinator counts this device as dropped out")
        self._consent.check_sum(len(alive))
        if body.vectors[body.survivors.index(bucket.own)] != self._vector.sha256:
            raise RefusedError(Reason.EQUIVOCATION, "own vector's hash is not the one uploaded")
        self._survivors = claim
        self.state = State.SIGNED
        self._postpone(now)
        signature = self._signer.sign_statement(survivors_statement(self._context, *claim))
        return [Say(Up.SURVIVOR, Survivor(context=self._context, signature=signature))]

    def unmask(self, body: UnmaskRequest, *, now: float) -> list[Effect]:
        """UNMASK-REQUEST: answer when at least `threshold` peers signed the very set this device signed.

        Raises:
            RefusedError: `wrong-context`, `below-threshold` or `bad-signature`.
        """
        bucket, member = self._joined(body.context)
        if self.state is not State.SIGNED or self._survivors is None:
            return []
        seats, hashes = self._survivors
        statement = survivors_statement(self._context, seats, hashes)
        signed = {entry.seat: entry.signature for entry in body.signatures}
        if len(signed) < bucket.params.threshold or not signed.keys() <= set(seats):
            raise RefusedError(Reason.BELOW_THRESHOLD, f"{len(signed)} signatures of {bucket.params.threshold}")
        for seat, signature in signed.items():
            verify_raw(bucket.keys[seat], signature, statement)
        with refusing():
            opened = member.unmask(frozenset(seats))
        answers = UnmaskShares(
            answers=tuple(UnmaskAnswer(seat=s.owner, of_mask_key=s.of_mask_key, share=s.share) for s in opened)
        )
        sealed = seal(self.offer.seal_key, encode(answers), self._context)
        self.state = State.UNMASKED
        self._postpone(now)
        return [Say(Up.UNMASK, Unmask(context=self._context, sealed=sealed))]

    def result(self, body: Result) -> list[Effect]:
        """RESULT: the round has made a checkpoint."""
        if (body.job, body.round, body.attempt) != (self.offer.job, self.offer.round, self.offer.attempt):
            raise RefusedError(Reason.WRONG_ROUND, f"{body.job} {body.round}.{body.attempt}")
        if self.state is State.DONE:
            return []
        self.state = State.DONE
        return [*self._burn(), Finished("included" if body.included else "not-included", result=body)]

    def aborted(self, body: Abort) -> list[Effect]:
        """ABORT: the bucket or the round is over without a result."""
        if (body.job, body.round, body.attempt) != (self.offer.job, self.offer.round, self.offer.attempt):
            raise RefusedError(Reason.WRONG_ROUND, f"{body.job} {body.round}.{body.attempt}")
        return [] if self.state is State.DONE else self._end("aborted", body.reason)

    def abandon(self, detail: str) -> list[Effect]:
        """Another offer has taken this one's place, or the daemon stops."""
        return [] if self.state is State.DONE else self._end("abandoned", detail)

    def tick(self, now: float, *, admission: str) -> list[Effect]:
        """Nobody waits for ever: give up after the coordinator's own deadlines have passed.

        Before READY that is the offer's deadline, and the coordinator learns what took so long; `admission` is what the
        device's training admission says at the moment.
        """
        if self.state is State.DONE or self._give_up_at is None or now < self._give_up_at:
            return []
        match self.state:
            case State.FETCHING:
                return self.refuse(Reason.MISSING_BLOB, "the model was not here by the deadline")
            case State.WAITING:
                return self.refuse(Reason.NOT_ADMITTED, admission)
            case State.TRAINING:
                return self.refuse(Reason.TRAINING_FAILED, f"not done by the deadline: {admission}")
        return self._end("timed-out", f"nothing from the coordinator while {self.state}")

    @property
    def give_up_at(self) -> float | None:
        """Monotonic seconds at which `tick` ends the round; None before `start` and after the end."""
        return None if self.state is State.DONE else self._give_up_at

    @property
    def frozen_allowed(self) -> bool:
        """Whether pausing the worker is harmless now: only before READY."""
        return self.state in {State.IDLE, State.FETCHING, State.WAITING, State.TRAINING, State.DONE}

    def _end(self, outcome: str, detail: str) -> list[Effect]:
        self.state = State.DONE
        return [*self._burn(), Finished(outcome, detail)]

    def _burn(self) -> list[Effect]:
        return [BurnPrekey(self._prekey.prekey_id)] if self._prekey is not None and self._member is None else []

    def _left_s(self, unix_now: float) -> float:
        return min(max(self.offer.ready_deadline - unix_now, 0.0), _LONGEST_WAIT_S)

    def _postpone(self, now: float) -> None:
        self._give_up_at = now + _EXCHANGES * self.offer.phase_seconds

    def _expectation(self) -> Expectation:
        if self._expected is None:
            raise RefusedError(Reason.OUT_OF_PHASE, f"no READY while {self.state}")
        return self._expected

    def _joined(self, context: bytes) -> tuple[Bucket, Member]:
        if self._bucket is None or self._member is None:
            raise RefusedError(Reason.OUT_OF_PHASE, f"no ROUND yet while {self.state}")
        if context != self._context:
            raise RefusedError(Reason.WRONG_CONTEXT, "of another ROUND")
        return self._bucket, self._member

    @staticmethod
    def _seats(seats: tuple[int, ...], bucket: Bucket) -> frozenset[int]:
        if list(seats) != sorted(set(seats)) or (seats and seats[-1] >= bucket.params.size):
            raise RefusedError(Reason.MALFORMED, "seats are not sorted, distinct and in range")
        if len(seats) < bucket.params.threshold:
            raise RefusedError(Reason.BELOW_THRESHOLD, f"{len(seats)} seats of {bucket.params.threshold}")
        return frozenset(seats)


def _printable(text: str) -> str:
    """Without control characters, which a refusal may not carry, and without half characters, which no text can."""
    return "".join(character if character.isprintable() else " " for character in text)
