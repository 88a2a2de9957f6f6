"""The server's side of one bucket: add masked vectors as they come, then remove the masks (numpy)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest

import numpy as np

from fedge_protocol.secagg import seeds
from fedge_protocol.secagg.errors import (
    AuditMismatch,
    BadInput,
    OutOfOrder,
    TooFewSurvivors,
    Unrecoverable,
)
from fedge_protocol.secagg.masking import WORD_BYTES, Ring, accumulate
from fedge_protocol.secagg.member import UnmaskShare
from fedge_protocol.secagg.params import BucketParams
from fedge_protocol.secagg.prekeys import MASK_SEED_BYTES, mask_private
from fedge_protocol.secagg.recovery import Fault, FaultKind, recover
from fedge_protocol.secagg.roster import Roster, check_indices, check_roster, round_binding
from fedge_protocol.secagg.shamir import parse_share
from fedge_protocol.secagg.shamir_batch import combine_many
from fedge_protocol.secagg.x25519 import Agreement, LowOrderError, public_of

Answers = Mapping[int, tuple[UnmaskShare, ...]]


@dataclass(frozen=True)
class Unmasked:
    """The sum of one bucket, and what was revealed to get it: enough for anyone to recompute it with `verify_sum`.

    Args:
        total: (padded,) uint16, the sum of the survivors' coded updates modulo 2^16.
        revealed_self: b (16 bytes) of every survivor.
        revealed_mask: s (16 bytes) of every member that shared and then dropped out.
        faults: wrong or refused answers, none of which stopped the sum.
    """

    total: Ring
    revealed_self: Mapping[int, bytes] = field(repr=False)
    revealed_mask: Mapping[int, bytes] = field(repr=False)
    faults: tuple[Fault, ...]


class _Masks:
    """Which secrets are right, and which masks they remove, in one bucket of one round."""

    def __init__(self, params: BucketParams, roster: Roster, context: bytes, model_hash: bytes) -> None:
        check_roster(params, roster)
        self.params = params
        self._roster = roster
        self._binding = round_binding(params, roster, context, model_hash)

    def is_self(self, owner: int, b: bytes, commitment: bytes) -> bool:
        return compare_digest(seeds.self_commitment(b, self._binding, owner), commitment)

    def is_mask(self, owner: int, s: bytes) -> bool:
        return public_of(mask_private(s)) == self._roster[owner].mask_public

    def audit(
        self, commitments: Mapping[int, bytes], revealed_self: Mapping[int, bytes], revealed_mask: Mapping[int, bytes]
    ) -> None:
        for owner, secret in (*revealed_self.items(), *revealed_mask.items()):
            if len(secret) != MASK_SEED_BYTES:
                raise AuditMismatch(f"the secret of member {owner} has {len(secret)} bytes")
        for owner, b in revealed_self.items():
            if not self.is_self(owner, b, commitments.get(owner, b"")):
                raise AuditMismatch(f"the self mask of member {owner} is not the one it committed to")
        for owner, s in revealed_mask.items():
            if not self.is_mask(owner, s):
                raise AuditMismatch(f"the mask key of member {owner} is not the one in the roster")

    def remove(
        self,
        total: Ring,
        survivors: Iterable[int],
        self_secrets: Mapping[int, bytes],
        mask_secrets: Mapping[int, bytes],
    ) -> None:
        """Subtract from `total` in place every mask that the survivors' vectors hold and that did not cancel."""
        signed = [(-1, seeds.self_seed(b, self._binding, owner)) for owner, b in self_secrets.items()]
        for dropped, s in mask_secrets.items():
            agreement = Agreement(mask_private(s))
            for survivor in survivors:
                try:
                    secret = agreement.with_peer(self._roster[survivor].mask_public)
                except LowOrderError as error:
                    raise BadInput(f"the mask key of survivor {survivor} has low order") from error
                seed = seeds.pair_seed(secret, self._binding, survivor, dropped)
                signed.append((-seeds.pair_sign(survivor, dropped), seed))
        accumulate(total, signed, self.params.suite)


class BucketSum:
    """The running sum of one bucket.

    Args:
        params: of the bucket.
        roster: sorted by device.
        context: H(ROUND body), 32 bytes.
        model_hash: SHA-256 of the weights, 32 bytes.
        padded_dim: coordinates of a masked vector.

    Raises:
        BadRoster: see `check_roster`.
        BadInput: context or model hash of the wrong size, or no coordinates.
    """

    def __init__(
        self, params: BucketParams, roster: Roster, context: bytes, model_hash: bytes, padded_dim: int
    ) -> None:
        if padded_dim < 1:
            raise BadInput(f"a vector of {padded_dim} coordinates cannot be summed")
        self._masks = _Masks(params, roster, context, model_hash)
        self._params = params
        self._total: Ring = np.zeros(padded_dim, dtype="<u2")
        self._added: set[int] = set()

    @property
    def added(self) -> frozenset[int]:
        """Whose vectors are in the sum; this is U2 when the phase ends."""
        return frozenset(self._added)

    def add(self, index: int, vector: bytes) -> None:
        """Add a member's masked vector: little-endian 16-bit words, exactly 2 * padded_dim bytes.

        Raises:
            BadInput: a stranger, a member's second vector, or another length; the sum is unchanged.
        """
        check_indices("a masked vector", (index,), self._params.size)
        if index in self._added:
            raise BadInput(f"member {index} has given its vector already")
        if len(vector) != WORD_BYTES * len(self._total):
            raise BadInput(
                f"member {index}: a vector of {len(vector)} bytes instead of {WORD_BYTES * len(self._total)}"
            )
        self._total += np.frombuffer(vector, dtype="<u2")
        self._added.add(index)

    def finish(
        self, u1: frozenset[int], u2: frozenset[int], commitments: Mapping[int, bytes], answers: Answers
    ) -> Unmasked:
        """Reconstruct b of every survivor and s of every dropped member, and remove their masks.

        May be called again with more answers: the running sum stays as it is.

        Args:
            u1: who shared.
            u2: whose vectors were added.
            commitments: at least every survivor's `Shares.self_commitment`.
            answers: what survivors sent in E4, by holder.

        Raises:
            BadInput: the sets do not fit together, or a commitment is missing.
            OutOfOrder: U2 is not exactly whose vectors were added.
            TooFewSurvivors: U2, or the well-formed answers, are fewer than the threshold.
            Unrecoverable: a secret cannot be reconstructed; names its owner.
        """
        check_indices("U1", u1, self._params.size)
        if not u2 <= u1:
            raise BadInput(f"U2 names members {sorted(u2 - u1)}, who are not in U1")
        if u2 != self._added:
            raise OutOfOrder(f"U2 {sorted(u2)} is not whose vectors were added, {sorted(self._added)}")
        if not u2 <= commitments.keys():
            raise BadInput(f"the commitments of members {sorted(u2 - commitments.keys())} are missing")
        if len(u2) < self._params.threshold:
            raise TooFewSurvivors("U2, who survived", len(u2), self._params.threshold)
        faults: list[Fault] = []
        shares_by_x = self._well_formed(u1, u2, answers, faults)
        if len(shares_by_x) < self._params.threshold:
            raise TooFewSurvivors("holders that answered", len(shares_by_x), self._params.threshold)
        secrets = self._reconstruct(sorted(u1), u2, commitments, shares_by_x, faults)
        revealed_self = {owner: secret for owner, secret in secrets.items() if owner in u2}
        revealed_mask = {owner: secret for owner, secret in secrets.items() if owner not in u2}
        total = self._total.copy()
        self._masks.remove(total, sorted(u2), revealed_self, revealed_mask)
        return Unmasked(total, revealed_self, revealed_mask, tuple(faults))

    def _well_formed(
        self, u1: frozenset[int], u2: frozenset[int], answers: Answers, faults: list[Fault]
    ) -> dict[int, list[bytes]]:
        """By x, the shares of every survivor that answered exactly what it was asked, in the order of the owners."""
        owners = sorted(u1)
        shares_by_x: dict[int, list[bytes]] = {}
        for holder in sorted(answers):
            given = {answer.owner: answer for answer in answers[holder]}
            problem = ""
            if holder not in u2:
                problem = "it is no survivor"
            elif len(given) != len(answers[holder]) or given.keys() != u1:
                problem = "its shares are not one for each member of U1"
            elif any(given[owner].of_mask_key == (owner in u2) for owner in owners):
                problem = "a share is of the secret that was not asked for"
            else:
                try:
                    for owner in owners:
                        parse_share(given[owner].share)
                except BadInput as error:
                    problem = str(error)
            if problem:
                faults.append(Fault(FaultKind.MALFORMED_ANSWER, holder, None, problem))
            else:
                shares_by_x[holder + 1] = [given[owner].share for owner in owners]
        return shares_by_x

    def _reconstruct(
        self,
        owners: list[int],
        u2: frozenset[int],
        commitments: Mapping[int, bytes],
        shares_by_x: Mapping[int, list[bytes]],
        faults: list[Fault],
    ) -> dict[int, bytes]:
        secrets: dict[int, bytes] = {}
        suspects: set[int] = set()
        for place, (owner, guess) in enumerate(
            zip(owners, combine_many(shares_by_x, self._params.threshold), strict=True)
        ):

            def is_right(secret: bytes, owner: int = owner) -> bool:
                if owner in u2:
                    return self._masks.is_self(owner, secret, commitments[owner])
                return self._masks.is_mask(owner, secret)

            if guess is not None and is_right(guess):
                secrets[owner] = guess
                continue
            column = {x: row[place] for x, row in shares_by_x.items()}
            recovered, tries = recover(column, self._params.threshold, is_right, suspects)
            if recovered is None:
                raise Unrecoverable(owner, of_mask_key=owner not in u2, tries=tries)
            secrets[owner] = recovered.secret
            suspects |= recovered.wrong
            faults += [
                Fault(FaultKind.WRONG_SHARE, x - 1, owner, "the share is not on the polynomial of the secret")
                for x in sorted(recovered.wrong)
            ]
        return secrets


def verify_sum(
    params: BucketParams,
    roster: Roster,
    context: bytes,
    model_hash: bytes,
    *,
    vectors: Mapping[int, bytes],
    commitments: Mapping[int, bytes],
    revealed_self: Mapping[int, bytes],
    revealed_mask: Mapping[int, bytes],
) -> Ring:
    """Recompute a bucket's sum from what was published, trusting nobody.

    Args:
        params: of the bucket.
        roster: sorted by device.
        context: H(ROUND body), 32 bytes.
        model_hash: SHA-256 of the weights, 32 bytes.
        vectors: the masked vector of every survivor (compare their hashes with the record before).
        commitments: at least every survivor's, from its signed E1 message.
        revealed_self: b of every survivor.
        revealed_mask: s of every member that shared and then dropped out.

    Returns:
        (padded,) uint16, to be compared with the published sum.

    Raises:
        AuditMismatch: a secret is not its owner's, is of the wrong size, or the sets do not fit together.
        BadInput: no vectors, or of different lengths.
    """
    masks = _Masks(params, roster, context, model_hash)
    check_indices("the record", (*vectors, *revealed_mask), params.size)
    if len(vectors) < params.threshold:
        raise AuditMismatch(f"{len(vectors)} vectors are below the threshold {params.threshold}")
    if revealed_self.keys() != vectors.keys() or revealed_mask.keys() & vectors.keys():
        raise AuditMismatch("every member needs exactly one revealed secret: b if its vector is in the sum, s if not")
    masks.audit(commitments, revealed_self, revealed_mask)
    lengths = {len(vector) for vector in vectors.values()}
    if len(lengths) != 1 or (length := lengths.pop()) % WORD_BYTES or not length:
        raise BadInput("the vectors are not of one length of whole 16-bit words")
    total: Ring = np.zeros(length // WORD_BYTES, dtype="<u2")
    for vector in vectors.values():
        total += np.frombuffer(vector, dtype="<u2")
    masks.remove(total, sorted(vectors), revealed_self, revealed_mask)
    return total
