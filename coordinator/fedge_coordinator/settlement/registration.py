"""Devices that consented to stand on the chain: checked before anything is paid for them."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from fedge_coordinator.settlement.errors import BindingRefusedError
from fedge_coordinator.settlement.interface import SignedBinding
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.tables import devices
from fedge_protocol.eip712 import ZERO_ADDRESS, ZERO_WORD, Domain
from fedge_protocol.receipts import verify_binding


def record_bindings(
    connection: Connection, domain: Domain, bindings: Sequence[SignedBinding], now_s: float
) -> list[SignedBinding]:
    """Store the bindings that are new and return them, in the order given.

    Raises:
        BindingRefusedError: when one is unsigned, expired, empty or contradicts a stored one.
    """
    new: dict[bytes, SignedBinding] = {}
    for signed in bindings:
        binding = signed.binding
        named = f"device 0x{binding.device.hex()}"
        known = connection.execute(select(devices).where(devices.c.device == binding.device)).one_or_none()
        if known is not None or binding.device in new:
            before = (known.device_id, known.payout) if known is not None else _bound(new[binding.device])
            if before != (binding.device_id, binding.payout):
                raise BindingRefusedError(f"{named} is registered with another identity or payout account")
            continue
        if ZERO_ADDRESS in {binding.device, binding.payout} or binding.device_id == ZERO_WORD:
            raise BindingRefusedError(f"{named}: device, payout and deviceId must not be zero")
        if binding.not_after < now_s:
            raise BindingRefusedError(f"{named}: the binding expired at {binding.not_after}; enrol again")
        if not verify_binding(domain, binding, signed.signature, recover=recover_signer):
            raise BindingRefusedError(f"{named} did not sign this binding for this chain")
        connection.execute(
            insert(devices).values(
                device=binding.device,
                device_id=binding.device_id,
                payout=binding.payout,
                nonce=binding.nonce,
                not_after=binding.not_after,
                signature=signed.signature,
            )
        )
        new[binding.device] = signed
    return list(new.values())


def _bound(signed: SignedBinding) -> tuple[bytes, bytes]:
    return signed.binding.device_id, signed.binding.payout
