"""Keys are taken only from files that nobody else can read, and sign what eth-account would sign."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge_coordinator.settlement.errors import KeyFileError
from fedge_coordinator.settlement.recovery import recover_signer
from fedge_coordinator.settlement.signer import LocalSigner
from fedge_coordinator.settlement.transaction import Transaction
from fedge_protocol.keccak import keccak256
from fedge_protocol.secp256k1 import SignatureError, recover_address

SECRET = bytes(range(1, 33))


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "sender.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content", [SECRET, SECRET.hex().encode(), b"0x" + SECRET.hex().encode() + b"\n", SECRET.hex().upper().encode()]
)
def test_a_private_file_of_raw_or_hexadecimal_bytes_is_a_key(tmp_path: Path, content: bytes):
    signer = LocalSigner.from_file(key_file(tmp_path, content))
    assert "0x" + signer.address.hex() == Account.from_key(SECRET).address.lower()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_file_that_others_can_touch_is_refused_with_the_cure(tmp_path: Path, mode: int):
    path = key_file(tmp_path, SECRET, mode)
    with pytest.raises(KeyFileError, match="chmod 600") as refused:
        LocalSigner.from_file(path)
    assert SECRET.hex() not in str(refused.value)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_credential_is_a_key_whatever_mode_its_access_list_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = key_file(tmp_path, SECRET, 0o440)
    with pytest.raises(KeyFileError, match="chmod 600"):
        LocalSigner.from_file(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "0x" + LocalSigner.from_file(path).address.hex() == Account.from_key(SECRET).address.lower()


def test_links_folders_missing_and_malformed_files_are_refused(tmp_path: Path):
    path = key_file(tmp_path, SECRET)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    with pytest.raises(KeyFileError):
        LocalSigner.from_file(link)
    pipe = tmp_path / "pipe.key"
    os.mkfifo(pipe, 0o600)
    for path_of_no_file in (tmp_path, pipe):
        with pytest.raises(KeyFileError, match="not a regular file"):
            LocalSigner.from_file(path_of_no_file)
    with pytest.raises(KeyFileError, match="No such file"):
        LocalSigner.from_file(tmp_path / "absent.key")
    for content in (b"", SECRET[:31], SECRET + b"\n", b"zz" * 32):
        with pytest.raises(KeyFileError, match="neither 32 raw bytes nor 64 hex digits") as refused:
            LocalSigner.from_file(key_file(tmp_path, content))
        assert not content or content.hex() not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away; run the tests as root")
def test_a_key_that_belongs_to_another_user_is_refused(tmp_path: Path):
    path = key_file(tmp_path, SECRET)
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyFileError, match="belongs to uid 12345"):
        LocalSigner.from_file(path)


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, SECRET[:31]])
def test_bytes_that_are_no_key_are_refused(secret: bytes):
    with pytest.raises(KeyFileError):
        LocalSigner(secret)


@given(st.binary(min_size=32, max_size=32))
def test_signatures_equal_eth_accounts_and_are_recovered_by_both_implementations(digest: bytes):
    signer = LocalSigner(SECRET)
    signature = signer.sign_digest(digest)
    assert signature == Account.from_key(SECRET).unsafe_sign_hash(digest).signature
    assert recover_signer(digest, signature) == recover_address(digest, signature) == signer.address


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.integers(26, 29))
def test_both_recoveries_agree_on_arbitrary_bytes(digest: bytes, body: bytes, v: int):
    signature = body + bytes([v])
    try:
        expected = recover_address(digest, signature)
    except SignatureError:
        with pytest.raises(SignatureError):
            recover_signer(digest, signature)
    else:
        assert recover_signer(digest, signature) == expected


NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))


@settings(deadline=None)
@given(
    st.integers(1, 2**63),
    NUMBERS,
    st.one_of(st.none(), st.binary(min_size=20, max_size=20)),
    NUMBERS,
    st.one_of(st.binary(max_size=70), st.binary(min_size=250, max_size=300)),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
def test_a_signed_transaction_names_its_sender_and_its_hash(chain_id, nonce, to, value, data, gas, max_fee, tip):
    transaction = Transaction(chain_id, nonce, to, value, data, gas, max_fee, tip)
    signer = LocalSigner(SECRET)
    signed = signer.sign_transaction(transaction)
    assert signed.raw[0] == 2
    assert signed.hash == keccak256(signed.raw)
    assert bytes.fromhex(Account.recover_transaction(signed.raw)[2:]) == signer.address
    assert signer.sign_transaction(transaction) == signed


def test_settling_leaves_the_recursion_limit_as_it_was():
    script = "import sys, fedge_coordinator.settlement.chain; print(sys.getrecursionlimit())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["1000"]
