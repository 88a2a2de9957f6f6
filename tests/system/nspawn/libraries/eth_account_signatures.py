"""A signature by eth-account is one by the account."""

from eth_account import Account
from eth_account.messages import encode_defunct

account = Account.create()
message = encode_defunct(text="x")
assert Account.recover_message(message, signature=account.sign_message(message).signature) == account.address
