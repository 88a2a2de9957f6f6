"""EIP-1559 transactions, signed by eth-account."""

import sys
from dataclasses import dataclass

# py_ecc, which eth-account imports, raises the recursion limit to 100,000, at which hostile nested JSON overflows the
# C stack of the whole process. It is put back.
_RECURSION_LIMIT = sys.getrecursionlimit()
from eth_account import Account  # noqa: E402

sys.setrecursionlimit(_RECURSION_LIMIT)


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

    def signed(self, secret: bytes) -> "SignedTransaction":
        """Return the transaction signed with a 32-byte key; the same bytes every time (RFC 6979)."""
        fields = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "to": self.to or b"",
            "value": self.value_wei,
            "data": self.data,
            "gas": self.gas,
            "maxFeePerGas": self.max_fee_wei,
            "maxPriorityFeePerGas": self.priority_fee_wei,
        }
        signed = Account.sign_transaction(fields, secret)
        return SignedTransaction(bytes(signed.raw_transaction), bytes(signed.hash))


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """The bytes to broadcast and the 32-byte hash by which the chain will know them."""

    raw: bytes
    hash: bytes
