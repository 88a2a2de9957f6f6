"""Signatures made through OpenSSL against eth-account, and what an attacker could send instead."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from eth_account import Account
from eth_keys.datatypes import Signature
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_protocol.eip712 import DeviceBinding, Domain, Receipt, digest
from fedge_protocol.receipts import sign_binding, sign_receipt, verify_binding, verify_receipt
from fedge_protocol.secp256k1 import ChainKey, SignatureError, recover_address, split_signature, verify_digest

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGESTS = st.binary(min_size=32, max_size=32)
SECRETS = st.integers(1, N - 1).map(lambda scalar: scalar.to_bytes(32, "big"))
DOMAIN = Domain(31337, b"\x0c" * 20)
RECEIPT = Receipt(b"\1" * 32, 7, 0, b"\2" * 32, b"\3" * 32)
KEY = ChainKey.from_secret(b"\x11" * 32)


@settings(deadline=None)
@given(SECRETS, DIGESTS)
def test_signature_and_address_equal_eth_accounts(secret, message):
    key = ChainKey.from_secret(secret)
    account = Account.from_key(secret)
    assert key.address == bytes.fromhex(account.address[2:])
    signature = key.sign_digest(message)
    assert signature == account.unsafe_sign_hash(message).signature
    assert recover_address(message, signature) == key.address
    assert verify_digest(key.public_key, message, signature)
    assert key.secret() == secret


@settings(deadline=None)
@given(DIGESTS, st.integers(0, N), st.integers(0, N // 2), st.sampled_from([27, 28]))
def test_recovery_of_any_signature_agrees_with_eth_account(message, r, s, v):
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])
    try:
        expected = Account._recover_hash(message, signature=signature)
    except Exception:  # noqa: BLE001 - whatever the oracle raises, ours must refuse too
        with pytest.raises(SignatureError):
            recover_address(message, signature)
    else:
        assert recover_address(message, signature) == bytes.fromhex(expected[2:])


@settings(deadline=None)
@given(st.integers(0, 64), st.integers(0, 7))
def test_a_receipt_with_any_bit_of_its_signature_changed_is_refused(byte, bit):
    signature = bytearray(sign_receipt(KEY, DOMAIN, RECEIPT))
    assert verify_receipt(DOMAIN, RECEIPT, bytes(signature), KEY.address)
    signature[byte] ^= 1 << bit
    assert not verify_receipt(DOMAIN, RECEIPT, bytes(signature), KEY.address)
    assert not verify_digest(KEY.public_key, digest(DOMAIN, RECEIPT), bytes(signature))


def test_the_same_receipt_gives_the_same_bytes():
    assert sign_receipt(KEY, DOMAIN, RECEIPT) == sign_receipt(KEY, DOMAIN, RECEIPT)


def test_a_receipt_does_not_count_on_another_chain_or_contract():
    signature = sign_receipt(KEY, DOMAIN, RECEIPT)
    assert not verify_receipt(Domain(1, DOMAIN.verifying_contract), RECEIPT, signature, KEY.address)
    assert not verify_receipt(Domain(31337, b"\x0d" * 20), RECEIPT, signature, KEY.address)


def test_the_malleable_twin_of_a_signature_is_refused_though_it_recovers():
    message = digest(DOMAIN, RECEIPT)
    r, s, recovery_id = split_signature(KEY.sign_digest(message))
    twin = r.to_bytes(32, "big") + (N - s).to_bytes(32, "big") + bytes([28 - recovery_id])
    oracle = Signature(vrs=(1 - recovery_id, r, N - s)).recover_public_key_from_msg_hash(message)
    assert oracle.to_canonical_address() == KEY.address
    with pytest.raises(SignatureError, match="malleable"):
        recover_address(message, twin)


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_only_27_and_28_are_recovery_bytes(v):
    signature = KEY.sign_digest(b"\5" * 32)[:64] + bytes([v])
    with pytest.raises(SignatureError, match=f"v is {v}"):
        recover_address(b"\5" * 32, signature)


@pytest.mark.parametrize("length", [0, 64, 66])
def test_a_signature_of_another_length_is_refused(length):
    with pytest.raises(SignatureError, match="65 bytes"):
        recover_address(b"\5" * 32, bytes(length))


def test_a_binding_is_signed_only_by_the_key_it_names():
    binding = DeviceBinding(b"\1" * 32, KEY.address, b"\2" * 20, b"\3" * 32, 2_000_000_000)
    assert verify_binding(DOMAIN, binding, sign_binding(KEY, DOMAIN, binding))
    with pytest.raises(SignatureError, match="the binding names"):
        sign_binding(ChainKey.generate(), DOMAIN, binding)


@pytest.mark.parametrize("secret", [b"", b"\1" * 31, bytes(32), N.to_bytes(32, "big")])
def test_a_bad_secret_is_refused_without_being_shown(secret):
    with pytest.raises(ValueError, match="chain key") as refused:
        ChainKey.from_secret(secret)
    assert not secret or secret.hex() not in str(refused.value)


def test_a_key_of_another_curve_is_refused():
    with pytest.raises(TypeError, match="secp256r1"):
        ChainKey(ec.generate_private_key(ec.SECP256R1()))


def test_signing_a_receipt_imports_neither_numpy_nor_eth_account():
    script = "import sys, fedge_protocol.receipts, fedge_protocol.merkle, fedge_protocol.rewards; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "eth_account", "eth_abi", "coincurve", "pydantic"} & set(loaded)
