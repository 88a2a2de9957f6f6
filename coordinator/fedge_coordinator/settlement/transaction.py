"""EIP-1559 transactions as bytes: RLP over the nine fields, the type byte in front (EIP-2718, Yellow Paper appendix B).

Written out here because importing eth-account costs 25 MB and half a second, and raises the interpreter's recursion
limit to 100,000 (py_ecc), at which hostile nested JSON overflows the C stack of the whole process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedge_protocol.keccak import keccak256

_TYPE = b"\x02"
_LONGEST_SHORT = 55
_SINGLE_BYTE_BELOW = 0x80
_STRING, _LIST = 0x80, 0xC0

Item = bytes | Sequence["Item"]


@dataclass(frozen=True, slots=True)
class Transaction:
    """An EIP-1559 transaction before it is signed; `to` is None for a deployment. Amounts in wei."""

    chain_id: int
    nonce: int
    to: bytes | None
    value_wei: int
    data: bytes
    gas: int
    max_fee_wei: int
    priority_fee_wei: int

    def digest(self) -> bytes:
        """Return the 32 bytes that the sender signs."""
        return keccak256(_TYPE + rlp(self._fields()))

    def signed(self, signature: bytes) -> "SignedTransaction":
        """Return the transaction with a 65-byte signature (r, s, v in {27, 28}) of its digest."""
        parts = (signature[64] - 27, int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"))
        raw = _TYPE + rlp([*self._fields(), *(_number(part) for part in parts)])
        return SignedTransaction(raw, keccak256(raw))

    def _fields(self) -> list[Item]:
        numbers = (self.chain_id, self.nonce, self.priority_fee_wei, self.max_fee_wei, self.gas)
        no_access_list: list[Item] = []
        return [
            *(_number(value) for value in numbers),
            self.to or b"",
            _number(self.value_wei),
            self.data,
            no_access_list,
        ]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """The bytes to broadcast and the 32-byte hash by which the chain will know them."""

    raw: bytes
    hash: bytes


def rlp(item: Item) -> bytes:
    """Return the Recursive Length Prefix encoding of bytes or of a list."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < _SINGLE_BYTE_BELOW:
            return item
        return _prefixed(_STRING, item)
    return _prefixed(_LIST, b"".join(rlp(entry) for entry in item))


def _prefixed(kind: int, payload: bytes) -> bytes:
    if len(payload) <= _LONGEST_SHORT:
        return bytes([kind + len(payload)]) + payload
    length = _number(len(payload))
    return bytes([kind + _LONGEST_SHORT + len(length)]) + length + payload


def _number(value: int) -> bytes:
    """Return a non-negative integer big-endian without leading zeros; zero is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
