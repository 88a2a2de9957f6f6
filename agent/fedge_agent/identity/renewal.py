"""Renews a device's certificate at two thirds of its life, without a person, by the certificate it still has."""

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity import keys, record, request
from fedge_agent.identity.ca_client import CaClient, Straight, Way, persistently
from fedge_agent.identity.enroll import NONCE_BYTES, check_clock
from fedge_agent.identity.files import write_durably
from fedge_agent.identity.record import Enrolment, Pending, Request
from fedge_protocol.enrolment import PATH_FLEET, PATH_RENEW, EnrolAnswer, FleetInfo, RenewRequest


def renew(
    state_dir: Path,
    *,
    rotate_key: bool,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    randomness: Callable[[int], bytes] = secrets.token_bytes,
    way: Way | None = None,
) -> Enrolment:
    """Get the next certificate. May be interrupted anywhere and called again.

    Args:
        state_dir: of an enrolled device.
        rotate_key: with a new identity key. A device is named by its key, so it gets a new id, topics and session, and
            the membership log says which id it replaces; between rounds only. The chain key and the rewards stay.
        clock: Unix seconds.
        sleep: pauses between attempts.
        randomness: for the binding's nonce.
        way: how to get to the CA; None: straight.

    Raises:
        NotEnrolledError, CaUnreachableError, CaUntrustedError, RefusedByCaError, KeyFileError.
    """
    present = record.load(state_dir, clock)
    chain = (present.certificate_file, present.key_file)
    client = CaClient(present.record.url, present.record.answer.ca, chain=chain, way=way or Straight())
    fleet = persistently(lambda: client.get(PATH_FLEET, FleetInfo), sleep)
    check_clock(fleet, clock())
    asked, identity = _request(state_dir, present, fleet, rotate_key=rotate_key, randomness=randomness)
    body = RenewRequest(asked.csr, request.proof_of(asked))
    answer = persistently(lambda: client.post(PATH_RENEW, body, EnrolAnswer), sleep)
    found = msgspec.structs.replace(present.record, device_id=identity.device_id, answer=answer)
    record.check(found, identity.key.public_key(), now=clock())
    pending = Pending(asked, found)
    record.write_pending(state_dir, pending)
    record.install(state_dir, pending)
    return record.load(state_dir, clock)


def _request(
    state_dir: Path, present: Enrolment, fleet: FleetInfo, *, rotate_key: bool, randomness: Callable[[int], bytes]
) -> tuple[Request, keys.Identity]:
    """The stored request for renewing this very certificate, or a new one, stored with its key before it is used."""
    purpose = hashlib.sha256(present.record.answer.certificate).digest()
    payout = present.device.payout
    identity = keys.load(state_dir)
    pending = record.read_pending(state_dir)
    if (
        pending is not None
        and pending.request.purpose == purpose
        and request.fits(pending.request, fleet, payout=payout, chain_address=identity.chain_address)
    ):
        if pending.request.rotates_key:
            identity = keys.Identity.of(keys.load_identity_key(state_dir / record.NEXT_KEY), identity.chain_key)
        return pending.request, identity
    if rotate_key:
        key = ec.generate_private_key(ec.SECP256R1())
        write_durably(state_dir / record.NEXT_KEY, keys.private_pem(key))
        identity = keys.Identity.of(key, identity.chain_key)
    made = request.make(
        identity, fleet, payout=payout, nonce=randomness(NONCE_BYTES), purpose=purpose, rotates_key=rotate_key
    )
    record.write_pending(state_dir, Pending(made))
    return made, identity
