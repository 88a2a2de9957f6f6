"""The retained word of a job, an offer or that there is none: decoded, and held against what this device pinned."""

from fedge_protocol.cose import decode, plain_of
from fedge_protocol.eip712 import Domain, job_id
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import PROTOCOL_VERSION, NoOffer, Offer
from fedge_protocol.secagg.x25519 import is_usable

_WEIGHT_BYTES = 4


def open_offer(body: bytes, *, fleet: str, job: str, domain: Domain) -> Offer | NoOffer:
    """Decode a verified body and check that it is about this job, chain and a model that its numbers describe.

    Args:
        body: whose signature holds.
        fleet: name of the fleet.
        job: the job in the topic.
        domain: where this device's receipts count, as pinned at enrolment.

    Raises:
        RefusedError: `unsupported` for another protocol version, by number; `malformed`, `wrong-topic`, `wrong-job` or
            `untrusted`.
    """
    found = _decoded(body)
    if found.job != job:
        raise RefusedError(Reason.WRONG_TOPIC, f"an offer of {found.job} for {job}")
    if isinstance(found, Offer):
        _check(found, fleet, domain)
    return found


def _decoded(body: bytes) -> Offer | NoOffer:
    try:
        return decode(body, Offer)
    except RefusedError:
        match plain_of(body):
            case [int() as version, *_] if version != PROTOCOL_VERSION:
                raise RefusedError(
                    Reason.UNSUPPORTED, f"an offer of protocol version {version}, this agent speaks {PROTOCOL_VERSION}"
                ) from None
            case [str(), *_]:
                return decode(body, NoOffer)
        raise


def _check(offer: Offer, fleet: str, domain: Domain) -> None:
    if (offer.chain_id, offer.registry) != (domain.chain_id, domain.verifying_contract):
        raise RefusedError(Reason.UNTRUSTED, f"receipts for chain {offer.chain_id}, enrolled for {domain.chain_id}")
    if offer.job_id != job_id(fleet, offer.job):
        raise RefusedError(Reason.WRONG_JOB, f"receipts would be for another job than {fleet}/{offer.job}")
    if offer.weights.size != _WEIGHT_BYTES * offer.dim:
        raise RefusedError(Reason.MALFORMED, f"{offer.weights.size} bytes of weights for {offer.dim} parameters")
    if not is_usable(offer.seal_key):
        raise RefusedError(Reason.MALFORMED, "nothing can be sealed to the offer's key")
