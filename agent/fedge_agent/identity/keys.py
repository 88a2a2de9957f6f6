"""The device's two keys: P-256 for TLS and signatures, secp256k1 for the chain.

PKCS#8 PEM, in files of mode 0600 or as credentials of the unit, which come first.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity import credentials
from fedge_agent.identity.errors import KeyFileError
from fedge_agent.identity.files import read_private, write_durably
from fedge_protocol import cose
from fedge_protocol.certificates import spki_der
from fedge_protocol.eip712 import Domain, Receipt
from fedge_protocol.ids import device_id_of
from fedge_protocol.receipts import sign_receipt
from fedge_protocol.secp256k1 import ChainKey

IDENTITY_KEY: Final = "identity.key"
CHAIN_KEY: Final = "chain.key"


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's keys and the names that follow from them.

    `device_id` is the text name, `device_hash` (32 bytes) the one on the chain. No private part is ever shown.
    """

    key: ec.EllipticCurvePrivateKey
    chain_key: ChainKey
    device_id: str
    device_hash: bytes

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey, chain_key: ChainKey) -> "Identity":
        """The identity that two keys make."""
        spki = spki_der(key.public_key())
        return cls(key, chain_key, device_id_of(spki), hashlib.sha256(spki).digest())

    @property
    def chain_address(self) -> bytes:
        """The chain key's 20-byte address."""
        return self.chain_key.address

    def sign(self, body: bytes, context: bytes) -> bytes:
        """A COSE_Sign1 message around `body`; `context` from `cose.context_of`."""
        return cose.sign(self.key, body, context)

    def sign_raw(self, statement: bytes) -> bytes:
        """A 64-byte ES256 signature over `statement`, which must begin with a context of its own."""
        return cose.sign_raw(self.key, statement)

    def sign_receipt(self, domain: Domain, receipt: Receipt) -> bytes:
        """The chain key's 65-byte signature of a receipt. The caller has stored the receipt before."""
        return sign_receipt(self.chain_key, domain, receipt)

    def __repr__(self) -> str:
        return f"Identity(device_id={self.device_id!r})"


def load(folder: Path) -> Identity:
    """Read both keys of a state directory.

    Raises:
        KeyFileError: missing, readable by others, or not a key of the right curve.
    """
    chain = _read(chain_key_file(folder), ec.SECP256K1())
    return Identity.of(_read(identity_key_file(folder), ec.SECP256R1()), ChainKey(chain))


def identity_key_file(folder: Path) -> Path:
    """Where the identity key is: the unit's credential, or the file in the state directory."""
    return credentials.path_of(credentials.IDENTITY_KEY, folder / IDENTITY_KEY)


def chain_key_file(folder: Path) -> Path:
    """Where the chain key is: the unit's credential, or the file in the state directory."""
    return credentials.path_of(credentials.CHAIN_KEY, folder / CHAIN_KEY)


def load_or_generate(folder: Path) -> Identity:
    """Read both keys, making whichever is missing; both are on the disk when this returns.

    Raises:
        KeyFileError: one that exists cannot be used. It is never overwritten.
    """
    for path, curve in ((chain_key_file(folder), ec.SECP256K1()), (identity_key_file(folder), ec.SECP256R1())):
        if not path.exists():
            write_durably(path, private_pem(ec.generate_private_key(curve)))
    return load(folder)


def load_identity_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key.

    Raises:
        KeyFileError: missing, readable by others, or another kind of key.
    """
    return _read(path, ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS#8 PEM, for a file of mode 0600 and nothing else."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} is no private key in PEM; restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != curve.name:
        raise KeyFileError(f"{path} is not a {curve.name} key; restore it from a backup")
    return key
