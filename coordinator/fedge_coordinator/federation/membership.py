"""The CA's membership log as the intake needs it: a sender, or a refusal."""

import hashlib
from collections.abc import Callable

from fedge_coordinator.enrolment.members import Member, Members
from fedge_coordinator.federation.intake import Sender
from fedge_coordinator.settlement.interface import SignedBinding
from fedge_protocol.certificates import spki_der
from fedge_protocol.errors import Reason, RefusedError


class LoggedMembership:
    """`Membership` over the followed log."""

    def __init__(self, members: Members, revoked: Callable[[], frozenset[str]]) -> None:
        self._members = members
        self._revoked = revoked

    def sender(self, device: str) -> Sender:
        """See `Membership.sender`."""
        member = self._members.get(device)
        if member is None:
            reason = Reason.REVOKED if device in self._revoked() else Reason.UNKNOWN_DEVICE
            raise RefusedError(reason, device)
        identity = member.identity
        return Sender(
            device=device,
            certificate=member.certificate,
            public_key=identity.public_key,
            chain_address=identity.chain_address,
            payout=identity.payout,
        )


def binding_of(member: Member) -> SignedBinding:
    """The device's consent to be registered on the chain, as its certificate carries it."""
    identity = member.identity
    device_hash = hashlib.sha256(spki_der(identity.public_key)).digest()
    _, binding = identity.binding.statement(device_hash, identity.chain_address)
    return SignedBinding(binding, identity.binding.signature)
