"""cryptography 50: HPKE (Debian's 38 has none), the chain's curve, a certificate request, from its own OpenSSL."""

import cryptography
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, x25519

assert str(cryptography.__file__).startswith("/usr/lib/fedge/")
receiver = x25519.X25519PrivateKey.generate()
suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
sealed = suite.encrypt(b"share", receiver.public_key(), info=b"round 1")
assert suite.decrypt(sealed, receiver, info=b"round 1") == b"share"
chain = ec.generate_private_key(ec.SECP256K1())
chain.public_key().verify(chain.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))
identity = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "0" * 32)])
request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(identity, hashes.SHA256())
assert request.is_signature_valid
