"""Ethereum signatures on the device: RFC 6979 nonces, low s, 65 bytes r || s || v, addresses.

The private key never leaves OpenSSL. The recovery id, which OpenSSL does not give, is found from public values alone by
point arithmetic in Python (2 ms); the coordinator, which recovers thousands of signers, uses coincurve instead.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fedge_protocol.eip712 import WORD_BYTES
from fedge_protocol.keccak import keccak256

SIGNATURE_BYTES = 65
_V_OFFSET = 27
_P = 2**256 - 2**32 - 977
_N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_G = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)
_PREHASHED = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
_Point = tuple[int, int, int]  # Jacobian: x = X/Z^2, y = Y/Z^3; Z = 0 is infinity
_INFINITY: _Point = (0, 1, 0)


class SignatureError(ValueError):
    """A signature is not one that an honest Ethereum key makes; the message says what is wrong with it."""


class ChainKey:
    """A secp256k1 private key held by OpenSSL, and its Ethereum address."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private_key.curve, ec.SECP256K1):
            raise TypeError(f"a chain key is secp256k1, not {private_key.curve.name}")
        self._private_key = private_key
        self.public_key = private_key.public_key()
        self.address = address_of(self.public_key)

    @classmethod
    def generate(cls) -> "ChainKey":
        """Make a new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256K1()))

    @classmethod
    def from_secret(cls, secret: bytes) -> "ChainKey":
        """Load a key from its 32-byte big-endian scalar.

        Raises:
            ValueError: when the length is wrong or the scalar is outside [1, n-1]. The value is not shown.
        """
        if len(secret) != WORD_BYTES:
            raise ValueError(f"a chain key has 32 bytes, not {len(secret)}")
        scalar = int.from_bytes(secret, "big")
        if not 0 < scalar < _N:
            raise ValueError("the chain key's scalar lies outside the group order")
        return cls(ec.derive_private_key(scalar, ec.SECP256K1()))

    def secret(self) -> bytes:
        """Return the 32-byte scalar, to be stored in a file of mode 0600 and nowhere else."""
        return self._private_key.private_numbers().private_value.to_bytes(WORD_BYTES, "big")

    def sign_digest(self, digest: bytes) -> bytes:
        """Return the 65-byte signature of a 32-byte digest: the same bytes every time, s in the lower half, v 27 or 28.

        Raises:
            SignatureError: when the digest does not have 32 bytes.
        """
        _check_digest(digest)
        r, s = utils.decode_dss_signature(self._private_key.sign(digest, _PREHASHED))
        s = min(s, _N - s)
        x, y = _nonce_point(digest, r, s, _coordinates(self.public_key))
        if x != r:  # the point's x is n or more: once in 2^127 signatures, and there is no 27/28 encoding for it
            raise SignatureError("this digest has no 65-byte signature under this key; sign another nonce")
        return _word(r) + _word(s) + bytes([_V_OFFSET + y % 2])


def address_of(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the 20-byte Ethereum address of a secp256k1 public key."""
    x, y = _coordinates(public_key)
    return keccak256(_word(x) + _word(y))[12:]


def verify_digest(public_key: ec.EllipticCurvePublicKey, digest: bytes, signature: bytes) -> bool:
    """Say whether this key made `signature` over `digest`. Form and `v` are checked as strictly as by recovery."""
    try:
        r, s, _ = split_signature(signature)
        _check_digest(digest)
        public_key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return recover_address(digest, signature) == address_of(public_key)
    except (SignatureError, InvalidSignature):
        return False


def split_signature(signature: bytes) -> tuple[int, int, int]:
    """Return (r, s, recovery id) of a 65-byte signature in the only form that is accepted.

    Raises:
        SignatureError: for another length, r or s out of range, s in the upper half, v other than 27 or 28.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has 65 bytes, not {len(signature)}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if not 0 < r < _N:
        raise SignatureError("r lies outside the group order")
    if not 0 < s <= _N // 2:
        raise SignatureError("s is zero or in the upper half of the group order (malleable)")
    if signature[64] not in {_V_OFFSET, _V_OFFSET + 1}:
        raise SignatureError(f"v is {signature[64]}, neither 27 nor 28")
    return r, s, signature[64] - _V_OFFSET


def recover_address(digest: bytes, signature: bytes) -> bytes:
    """Return the 20-byte address that signed `digest`.

    Raises:
        SignatureError: when the signature is malformed, malleable or belongs to no key.
    """
    _check_digest(digest)
    r, s, recovery_id = split_signature(signature)
    point = _recover(digest, r, s, recovery_id)
    if point is None:
        raise SignatureError("r is not the abscissa of a point; the signature belongs to no key")
    return keccak256(_word(point[0]) + _word(point[1]))[12:]


def _check_digest(digest: bytes) -> None:
    if len(digest) != WORD_BYTES:
        raise SignatureError(f"a digest has 32 bytes, not {len(digest)}")


def _word(value: int) -> bytes:
    return value.to_bytes(WORD_BYTES, "big")


def _coordinates(public_key: ec.EllipticCurvePublicKey) -> tuple[int, int]:
    numbers = public_key.public_numbers()
    return numbers.x, numbers.y


def _nonce_point(digest: bytes, r: int, s: int, public: tuple[int, int]) -> tuple[int, int]:
    """Return R = s^-1 (z G + r Q), the point whose x made r: found from public values alone."""
    s_inverse = pow(s, -1, _N)
    u1, u2 = int.from_bytes(digest, "big") * s_inverse % _N, r * s_inverse % _N
    x, y, z = _double_multiply(u1, _G, u2, public)
    z_inverse = pow(z, -1, _P)
    return x * z_inverse**2 % _P, y * z_inverse**3 % _P


def _recover(digest: bytes, r: int, s: int, recovery_id: int) -> tuple[int, int] | None:
    """Return Q = r^-1 (s R - z G), SEC 1 section 4.1.6, or None when there is no such point."""
    y_squared = (pow(r, 3, _P) + 7) % _P
    y = pow(y_squared, (_P + 1) // 4, _P)
    if y * y % _P != y_squared:
        return None
    if y % 2 != recovery_id:
        y = _P - y
    r_inverse = pow(r, -1, _N)
    u1, u2 = -int.from_bytes(digest, "big") * r_inverse % _N, s * r_inverse % _N
    x, y, z = _double_multiply(u1, _G, u2, (r, y))
    if z == 0:
        return None
    z_inverse = pow(z, -1, _P)
    return x * z_inverse**2 % _P, y * z_inverse**3 % _P


def _double_multiply(u1: int, first: tuple[int, int], u2: int, second: tuple[int, int]) -> _Point:
    """Return u1 * first + u2 * second by Shamir's trick. Not constant-time: public values only."""
    a, b = (*first, 1), (*second, 1)
    both = _add(a, b)
    total = _INFINITY
    for bit in range(max(u1.bit_length(), u2.bit_length()) - 1, -1, -1):
        total = _double(total)
        pick = (u1 >> bit & 1) + 2 * (u2 >> bit & 1)
        if pick:
            total = _add(total, (a, b, both)[pick - 1])
    return total


def _double(point: _Point) -> _Point:
    x, y, z = point
    y_squared = y * y % _P
    s = 4 * x * y_squared % _P
    m = 3 * x * x % _P
    x_out = (m * m - 2 * s) % _P
    return x_out, (m * (s - x_out) - 8 * y_squared * y_squared) % _P, 2 * y * z % _P


def _add(left: _Point, right: _Point) -> _Point:
    if left[2] == 0:
        return right
    if right[2] == 0:
        return left
    x1, y1, z1 = left
    x2, y2, z2 = right
    z1_squared, z2_squared = z1 * z1 % _P, z2 * z2 % _P
    u1, u2 = x1 * z2_squared % _P, x2 * z1_squared % _P
    s1, s2 = y1 * z2 * z2_squared % _P, y2 * z1 * z1_squared % _P
    if u1 == u2:
        return _double(left) if s1 == s2 else _INFINITY
    h, slope = (u2 - u1) % _P, (s2 - s1) % _P
    h_squared = h * h % _P
    h_cubed, v = h * h_squared % _P, u1 * h_squared % _P
    x_out = (slope * slope - h_cubed - 2 * v) % _P
    return x_out, (slope * (v - x_out) - s1 * h_cubed) % _P, h * z1 * z2 % _P
