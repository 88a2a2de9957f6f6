"""Finding a secret among shares of which some are wrong, and who gave those. No numpy.

A right secret can be recognised (by the owner's commitment or public key), so choices of `threshold` shares are tried
until one gives it, in a fixed pseudo-random order, holders not yet suspected first. With 30 answers and a threshold of
22, one liar takes 4 tries in the mean and four take 390; the bound ends the search when there is nothing to find.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from math import comb
from typing import Final

from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import digest
from fedge_protocol.secagg.labels import SUBSET
from fedge_protocol.secagg.shamir import combine, interpolate

MAX_TRIES: Final = 2048


class FaultKind(StrEnum):
    """What a member did wrong while unmasking."""

    MALFORMED_ANSWER = "malformed-answer"
    WRONG_SHARE = "wrong-share"


@dataclass(frozen=True)
class Fault:
    """One thing that went wrong, none of which stopped the sum.

    A wrong share names its holder. The holder alone cannot be told from an owner that dealt it a wrong share in the
    first place: the signed E1 and E4 messages of both are the evidence, and only repetition convicts.

    Args:
        kind: what it was.
        holder: index of the member that answered.
        owner: index of the member whose secret the share is of; None when the whole answer was refused.
        detail: for people.
    """

    kind: FaultKind
    holder: int
    owner: int | None
    detail: str


@dataclass(frozen=True)
class Recovered:
    """A secret, and the x of the holders whose shares do not lie on its polynomials.

    Args:
        secret: 16 bytes.
        wrong: x of those holders.
    """

    secret: bytes
    wrong: frozenset[int]


def _choices(xs: AbstractSet[int], threshold: int, suspects: AbstractSet[int]) -> Iterator[tuple[int, ...]]:
    yield tuple(sorted(xs, key=lambda x: (x in suspects, x))[:threshold])
    for number in range(1, MAX_TRIES):
        salt = number.to_bytes(4, "little")
        places = {x: digest(SUBSET, salt, x.to_bytes(2, "little")) for x in xs}
        trusting = number % 2 == 1
        yield tuple(sorted(xs, key=lambda x: (trusting and x in suspects, places[x]))[:threshold])


def recover(
    shares_by_x: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool], suspects: AbstractSet[int]
) -> tuple[Recovered | None, int]:
    """Try choices of `threshold` shares until `is_right` accepts what they give.

    Args:
        shares_by_x: at least `threshold` well-formed shares.
        threshold: how many it takes.
        is_right: whether 16 bytes are the secret.
        suspects: x of holders to be left out at first.

    Returns:
        What was found, or None, and the number of choices tried.
    """
    xs = frozenset(shares_by_x)
    limit = comb(len(xs), threshold)
    seen: set[frozenset[int]] = set()
    for choice in _choices(xs, threshold, suspects):
        if len(seen) == limit:
            break
        if frozenset(choice) in seen:
            continue
        seen.add(frozenset(choice))
        chosen = {x: shares_by_x[x] for x in sorted(choice)}
        try:
            secret = combine(chosen, threshold)
        except BadInput:
            continue
        if is_right(secret):
            rest = xs - frozenset(choice)
            return Recovered(secret, frozenset(x for x in rest if interpolate(chosen, x) != shares_by_x[x])), len(seen)
    return None, len(seen)
