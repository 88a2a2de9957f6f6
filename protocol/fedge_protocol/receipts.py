"""A device's signed receipt for its contribution, and its consent to be bound to a chain address.

Both count in DeviceRegistry's domain. The device must have stored what it signs before it lets the signature out: a
second receipt for the same (job, round, attempt) with another hash proves equivocation.
"""

from collections.abc import Callable

from fedge_protocol.eip712 import DeviceBinding, Domain, Receipt, digest
from fedge_protocol.secp256k1 import ChainKey, SignatureError, recover_address

Recover = Callable[[bytes, bytes], bytes]
"""(32-byte digest, 65-byte signature) -> 20-byte address or SignatureError. The coordinator passes coincurve's."""


def sign_receipt(key: ChainKey, domain: Domain, receipt: Receipt) -> bytes:
    """Return the device's 65-byte signature of a receipt; the same bytes for the same receipt.

    Raises:
        EncodingError: when a field of the receipt does not fit its type.
    """
    return key.sign_digest(digest(domain, receipt))


def verify_receipt(
    domain: Domain, receipt: Receipt, signature: bytes, device: bytes, *, recover: Recover = recover_address
) -> bool:
    """Say whether the chain address `device` signed this receipt.

    Raises:
        EncodingError: when a field of the receipt does not fit its type.
    """
    return _signed_by(digest(domain, receipt), signature, device, recover)


def sign_binding(key: ChainKey, domain: Domain, binding: DeviceBinding) -> bytes:
    """Return the chain key's 65-byte consent to a binding that names this key's own address.

    Raises:
        SignatureError: when the binding names another device address.
        EncodingError: when a field of the binding does not fit its type.
    """
    if binding.device != key.address:
        raise SignatureError(f"the binding names 0x{binding.device.hex()}, the key is 0x{key.address.hex()}")
    return key.sign_digest(digest(domain, binding))


def verify_binding(
    domain: Domain, binding: DeviceBinding, signature: bytes, *, recover: Recover = recover_address
) -> bool:
    """Say whether the device address that the binding names signed it. `not_after` is the caller's to check.

    Raises:
        EncodingError: when a field of the binding does not fit its type.
    """
    return _signed_by(digest(domain, binding), signature, binding.device, recover)


def _signed_by(message: bytes, signature: bytes, address: bytes, recover: Recover) -> bool:
    try:
        return recover(message, signature) == address
    except SignatureError:
        return False
