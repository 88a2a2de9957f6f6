"""Joins a fleet: one token in, an enrolment out, whatever the network and the power do in between."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedge_agent.identity import keys, record, request
from fedge_agent.identity.ca_client import CaClient, Straight, Way, fetch_ca, persistently
from fedge_agent.identity.errors import (
    AlreadyEnrolledError,
    CaUntrustedError,
    ClockError,
    NotEnrolledError,
    TokenError,
)
from fedge_agent.identity.record import Enrolment, Pending, Record, Request
from fedge_protocol.certificates import CertificateRefusedError, load_fleet_ca
from fedge_protocol.enrolment import PATH_ENROL, PATH_FLEET, EnrolAnswer, EnrolRequest, FleetInfo, Token, parse_token
from fedge_protocol.errors import RefusedError

MAX_CLOCK_ERROR_S: Final = 300
NONCE_BYTES: Final = 32


def enroll(
    token: str,
    state_dir: Path,
    payout: bytes | None = None,
    *,
    again: bool = False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    randomness: Callable[[int], bytes] = secrets.token_bytes,
    way: Way | None = None,
) -> Enrolment:
    """Enrol this device with a token. Giving the same token again continues, or returns what it brought before.

    Args:
        token: `fedge1....`
        state_dir: where keys and certificate live; made with mode 0700 when missing.
        payout: 20-byte address that is paid; the chain key's own when None.
        again: replace a present enrolment (another fleet, or a new token after a revocation).
        clock: Unix seconds.
        sleep: pauses between attempts.
        randomness: for the binding's nonce.
        way: how to get to the CA; None: straight.

    Raises:
        TokenError, AlreadyEnrolledError, CaUnreachableError, CaUntrustedError, RefusedByCaError, KeyFileError: all are
        `IdentityError`, and their text says what to do.
    """
    wanted = _parse(token)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = _present(state_dir, clock)
    if present is not None:
        if present.record.token_sha256 == wanted.secret_sha256():
            return present
        if not again and clock() < present.device.not_after:
            raise AlreadyEnrolledError(
                f"this device is {present.device_id} of fleet {present.fleet!r}; to replace that: enroll --again"
            )
    identity = keys.load_or_generate(state_dir)
    way = way or Straight()
    ca = persistently(lambda: fetch_ca(wanted.url, wanted.ca_sha256, way), sleep)
    _check_root(ca, wanted)
    client = CaClient(wanted.url, ca, way=way)
    fleet = persistently(lambda: client.get(PATH_FLEET, FleetInfo), sleep)
    check_clock(fleet, clock())
    asked = _request(state_dir, identity, fleet, wanted, payout or identity.chain_address, randomness)
    body = EnrolRequest(wanted.secret, asked.csr, request.proof_of(asked))
    answer = persistently(lambda: client.post(PATH_ENROL, body, EnrolAnswer), sleep)
    if answer.ca != ca:
        raise CaUntrustedError("the CA's answer names another root than the one it proved; tell the operator")
    found = Record(
        wanted.url, wanted.fleet, wanted.ca_sha256, identity.device_id, answer, wanted.secret_sha256(), int(clock())
    )
    record.check(found, identity.key.public_key(), now=clock())
    pending = Pending(asked, found)
    record.write_pending(state_dir, pending)
    record.install(state_dir, pending)
    return record.load(state_dir, clock)


def _parse(text: str) -> Token:
    try:
        return parse_token(text)
    except RefusedError as error:
        raise TokenError(f"this is no enrolment token: {error.detail or error.reason}; copy it whole") from None


def _present(state_dir: Path, clock: Callable[[], float]) -> Enrolment | None:
    try:
        return record.load(state_dir, clock)
    except NotEnrolledError:
        return None


def _check_root(ca: bytes, token: Token) -> None:
    try:
        load_fleet_ca(ca, fleet=token.fleet)
    except CertificateRefusedError as error:
        raise CaUntrustedError(f"the CA's root certificate does not hold: {error}; tell the operator") from None


def check_clock(fleet: FleetInfo, now: float) -> None:
    """Compare this device's clock (Unix seconds) with the CA's.

    Raises:
        ClockError: they differ by more than `MAX_CLOCK_ERROR_S`.
    """
    difference_s = int(now) - fleet.time
    if abs(difference_s) > MAX_CLOCK_ERROR_S:
        raise ClockError(
            f"this device's clock differs from the CA's by {difference_s} s: set it (timedatectl set-ntp true), then "
            "give the same command again"
        )


def _request(
    state_dir: Path,
    identity: keys.Identity,
    fleet: FleetInfo,
    token: Token,
    payout: bytes,
    randomness: Callable[[int], bytes],
) -> Request:
    """The stored request of this token, or a new one, which is stored before it is used."""
    purpose = token.secret_sha256()
    pending = record.read_pending(state_dir)
    if (
        pending is not None
        and pending.request.purpose == purpose
        and request.fits(pending.request, fleet, payout=payout, chain_address=identity.chain_address)
    ):
        return pending.request
    made = request.make(identity, fleet, payout=payout, nonce=randomness(NONCE_BYTES), purpose=purpose)
    record.write_pending(state_dir, Pending(made))
    return made
