"""Shamir reconstruction of many secrets from the same holders at once (numpy, the server's side)."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedge_protocol.secagg.errors import BadInput, TooFewSurvivors
from fedge_protocol.secagg.params import MAX_SIZE
from fedge_protocol.secagg.shamir import LIMBS, PRIME, SHARE_BYTES, lagrange, secret_of_limbs


def combine_many(shares_by_x: Mapping[int, Sequence[bytes]], threshold: int) -> list[bytes | None]:
    """The secrets from the shares of the `threshold` holders with the least x; None where they give none.

    Args:
        shares_by_x: for each holder's x its shares (20 bytes each), one a secret, in the same order for every holder.
        threshold: how many holders it takes.

    Returns:
        One 16-byte secret, or None, for each place in that order. Wrong shares may also give a wrong secret.

    Raises:
        TooFewSurvivors: fewer holders than the threshold.
        BadInput: an x outside 1..128, a share of another size, or holders with different numbers of shares.
    """
    if threshold < 1 or len(shares_by_x) < threshold:
        raise TooFewSurvivors("holders that answered", len(shares_by_x), threshold)
    xs = tuple(sorted(shares_by_x)[:threshold])
    if xs[0] < 1 or xs[-1] > MAX_SIZE:
        raise BadInput(f"a share's x is not within 1..{MAX_SIZE}")
    rows = [shares_by_x[x] for x in xs]
    count = len(rows[0])
    if any(len(row) != count or any(len(share) != SHARE_BYTES for share in row) for row in rows):
        raise BadInput(f"every holder needs {count} shares of {SHARE_BYTES} bytes")
    words = np.frombuffer(b"".join(share for row in rows for share in row), dtype="<u4").astype(np.uint64)
    values = words.reshape(threshold, count * LIMBS) % PRIME
    weights = np.array(lagrange(xs), dtype=np.uint64)[:, None]
    limbs = ((values * weights % PRIME).sum(axis=0) % PRIME).reshape(count, LIMBS)
    return [_secret_or_none(tuple(row)) for row in limbs.tolist()]


def _secret_or_none(limbs: tuple[int, ...]) -> bytes | None:
    try:
        return secret_of_limbs(limbs)
    except BadInput:
        return None
