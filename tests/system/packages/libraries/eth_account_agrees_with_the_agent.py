"""eth-account (package fedge-agent-eth): one EIP-712 receipt signed by it and by the agent, byte for byte."""

import eth_account
from eth_account import Account
from eth_account.messages import encode_typed_data

from fedge_protocol.eip712 import Domain, Receipt
from fedge_protocol.receipts import sign_receipt
from fedge_protocol.secp256k1 import ChainKey

assert str(eth_account.__file__).startswith("/usr/lib/fedge/")
secret, registry = bytes(range(1, 33)), bytes(range(20))
receipt = Receipt(b"\1" * 32, 7, 0, b"\2" * 32, b"\3" * 32)
fields = [part.split() for part in Receipt.TYPE.partition("(")[2].rstrip(")").split(",")]
message = encode_typed_data(
    {"name": "Fedge", "version": "1", "chainId": 31337, "verifyingContract": "0x" + registry.hex()},
    {"Receipt": [{"type": kind, "name": name} for kind, name in fields]},
    {"jobId": b"\1" * 32, "round": 7, "attempt": 0, "bucketRoot": b"\2" * 32, "updateHash": b"\3" * 32},
)
theirs = Account.sign_message(message, secret)
assert bytes(theirs.signature) == sign_receipt(ChainKey.from_secret(secret), Domain(31337, registry), receipt)
assert Account.recover_message(message, signature=theirs.signature) == Account.from_key(secret).address
