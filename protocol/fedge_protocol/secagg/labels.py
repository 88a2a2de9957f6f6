"""Every domain separation label of FSA/1, in one place. At most 16 bytes: they are BLAKE2b personalisation strings."""

from typing import Final

MASK_KEY: Final = b"fsa1 mask-sk"
"""Prekey seed -> X25519 private key of the pairwise masks."""

PAIR: Final = b"fsa1 pair"
"""X25519 secret of two members -> seed of their pairwise mask."""

SELF_MASK: Final = b"fsa1 self-mask"
"""b -> seed of a member's self mask."""

SELF_COMMITMENT: Final = b"fsa1 commit"
"""b -> what is published in E1, so that a reconstructed b can be checked."""

SEAL: Final = b"fsa1 seal"
"""X25519 secret of two channel keys -> AEAD key of one direction."""

BINDING: Final = b"fsa1 binding"
"""Context, model, parameters and roster -> the 32 bytes that everything else is bound to."""

SHARING: Final = b"fsa1 sharing"
"""32 bytes of entropy -> b and the Shamir coefficients of one member in one round."""

NONCES: Final = b"fsa1 nonces"
"""Seed and all nonces -> key of the order in which buckets are dealt."""

ORDER: Final = b"fsa1 order"
"""One device -> its place in that order."""

ROTATION: Final = b"fsa1 rotation"
"""Public rotation seed -> keystream of permutation and signs."""

ROUNDING: Final = b"fsa1 rounding"
"""32 bytes of entropy -> keystream of the stochastic rounding."""

SUBSET: Final = b"fsa1 subset"
"""Try number and holder -> its place in the order in which choices of shares are tried."""
