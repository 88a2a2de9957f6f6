"""One cryptography, with HPKE and with the chain's curve."""

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec

key = ec.generate_private_key(ec.SECP256K1())
key.public_key().verify(key.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))
assert callable(hpke.Suite)
