import hashlib
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity import keys
from fedge_agent.identity.errors import KeyFileError, NotEnrolledError
from fedge_agent.identity.files import MAX_FILE_BYTES, write_durably
from fedge_agent.identity.record import load
from fedge_protocol import cose
from fedge_protocol.certificates import spki_der
from fedge_protocol.eip712 import Domain, Receipt
from fedge_protocol.receipts import verify_receipt


def test_keys_are_made_once_private_and_found_again(tmp_path):
    identity = keys.load_or_generate(tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "identity.key": 0o600,
        "chain.key": 0o600,
    }
    again = keys.load_or_generate(tmp_path)
    assert (again.device_id, again.chain_address) == (identity.device_id, identity.chain_address)


def test_a_device_is_named_by_the_hash_of_its_key(tmp_path):
    identity = keys.load_or_generate(tmp_path)
    digest = hashlib.sha256(spki_der(identity.key.public_key())).digest()
    assert (identity.device_hash, identity.device_id) == (digest, digest.hex()[:32])


def test_what_an_identity_signs_verifies(tmp_path):
    identity = keys.load_or_generate(tmp_path)
    context = cose.context_of("lab", identity.device_id, "ready")
    assert cose.verify(identity.sign(b"body", context), identity.key.public_key(), context) == b"body"
    cose.verify_raw(identity.key.public_key(), identity.sign_raw(b"statement"), b"statement")
    receipt = Receipt(bytes(32), 1, 0, bytes(32), bytes(32))
    signature = identity.sign_receipt(Domain(), receipt)
    assert verify_receipt(Domain(), receipt, signature, identity.chain_address)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
@pytest.mark.parametrize("name", ["identity.key", "chain.key"])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode, name):
    keys.load_or_generate(tmp_path)
    (tmp_path / name).chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:04o}.*chmod 600"):
        keys.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (keys.private_pem(ec.generate_private_key(ec.SECP256K1())), "not a secp256r1 key"),
        (bytes(MAX_FILE_BYTES + 1), "more than"),
    ],
)
def test_a_file_that_is_no_identity_key_is_named_and_never_overwritten(tmp_path, content, text):
    keys.load_or_generate(tmp_path)
    write_durably(tmp_path / "identity.key", content)
    with pytest.raises(KeyFileError, match=text):
        keys.load_or_generate(tmp_path)
    assert (tmp_path / "identity.key").read_bytes() == content


def test_no_private_part_shows_in_a_representation(tmp_path):
    identity = keys.load_or_generate(tmp_path)
    assert repr(identity) == f"Identity(device_id={identity.device_id!r})"


def test_a_device_without_enrolment_is_told_how_to_enrol(tmp_path):
    with pytest.raises(NotEnrolledError, match="fedge-agent enroll"):
        load(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away: sudo scripts/test")
def test_what_root_writes_belongs_to_the_owner_of_the_state_directory(tmp_path):
    os.chown(tmp_path, 4321, 4322)
    keys.load_or_generate(tmp_path)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {(4321, 4322)}


def test_a_daemon_that_knows_who_it_is_has_imported_nothing_heavy():
    code = "import sys, fedge_agent.identity.record, fedge_agent.identity.renewal; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "eth_account", "pyroute2", "httpx", "sqlalchemy", "tflite_runtime"} & set(loaded)
