"""The device's side of one bucket: share (E1), mask (E2), help to unmask (E4). No numpy.

What E3 adds, one signature over the survivors by each of them, is a matter of messages and lives outside.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedge_protocol.secagg import seeds
from fedge_protocol.secagg.errors import (
    BadInput,
    BadPeerKey,
    BadRoster,
    BadShare,
    Equivocation,
    OutOfOrder,
    OwnKeyAltered,
    TooFewSurvivors,
)
from fedge_protocol.secagg.kdf import derive
from fedge_protocol.secagg.labels import SEAL, SHARING
from fedge_protocol.secagg.params import BucketParams, Suite
from fedge_protocol.secagg.prekeys import Prekey, mask_private
from fedge_protocol.secagg.prg import Keystream
from fedge_protocol.secagg.roster import Peer, Roster, check_indices, check_roster, round_binding
from fedge_protocol.secagg.shamir import SECRET_BYTES, SHARE_BYTES, parse_share, split
from fedge_protocol.secagg.x25519 import Agreement, LowOrderError

__all__ = ["ENTROPY_BYTES", "SEALED_BYTES", "MaskSeeds", "Member", "Peer", "Shares", "UnmaskShare"]

ENTROPY_BYTES: Final = 32
SEALED_BYTES: Final = 2 * SHARE_BYTES + 16
"""Two shares and the AEAD's tag. Always."""

_NONCE: Final = bytes(12)


@dataclass(frozen=True)
class Shares:
    """What E1 sends.

    Args:
        self_commitment: to b, 32 bytes.
        sealed: 56 bytes for each peer, in roster order without this device.
    """

    self_commitment: bytes
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class MaskSeeds:
    """What the worker needs to mask, and all of it. `repr` shows no seed.

    Args:
        self_seed: 32 bytes.
        pairs: for each peer in U1 the sign (+1 or -1) with which its mask is added, and the 32-byte seed.
    """

    self_seed: bytes = field(repr=False)
    pairs: tuple[tuple[int, bytes], ...] = field(repr=False)


@dataclass(frozen=True)
class UnmaskShare:
    """What E4 sends about one member of U1.

    Args:
        owner: index of the member whose secret it is a share of.
        of_mask_key: True: a share of its mask key's seed s (it dropped out); False: of its self mask's b (it survived).
        share: 20 bytes.
    """

    owner: int
    of_mask_key: bool
    share: bytes = field(repr=False)


class Member:
    """One device in one bucket, once.

    `random` is called exactly once, for 32 bytes, in the constructor; everything else follows from the arguments and
    the messages. Who must survive a restart stores those 32 bytes with the prekey before E1 is sent, builds the same
    `Member` again and repeats the calls: the answers are the same bytes, and what was answered stays answered.

    Args:
        params: of the bucket.
        roster: sorted by device; the keys are vouched for by their devices' signatures, checked before.
        own: this device's id.
        prekey: whose public keys the roster must list for this device; burned from here on.
        context: H(ROUND body), 32 bytes.
        model_hash: SHA-256 of the weights the update was trained from, 32 bytes.
        random: a CSPRNG.

    Raises:
        BadRoster: the roster's size, order or keys are wrong, or this device is not in it.
        OwnKeyAltered: the roster lists other keys for this device.
        BadInput: context, model hash or entropy of the wrong size.
    """

    def __init__(
        self,
        params: BucketParams,
        roster: Roster,
        own: str,
        prekey: Prekey,
        context: bytes,
        model_hash: bytes,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_roster(params, roster)
        self._own = next((index for index, peer in enumerate(roster) if peer.device == own), -1)
        if self._own < 0:
            raise BadRoster(f"this device, {own}, is not in the roster")
        listed = roster[self._own]
        if (listed.mask_public, listed.channel_public) != (prekey.mask_public, prekey.channel_public):
            raise OwnKeyAltered(f"the roster lists other keys for this device than prekey {prekey.prekey_id} has")
        self._params = params
        self._roster = roster
        self._prekey = prekey
        self._binding = round_binding(params, roster, context, model_hash)
        entropy = random(ENTROPY_BYTES)
        if len(entropy) != ENTROPY_BYTES:
            raise BadInput(f"the random source gave {len(entropy)} bytes instead of {ENTROPY_BYTES}")
        stream = Keystream(Suite.CHACHA20, derive(entropy, SHARING, self._binding, prekey.channel_private))
        self._b = stream.read(SECRET_BYTES)
        size = params.size
        self._b_shares = split(self._b, threshold=params.threshold, holders=size, random=stream.read)
        self._s_shares = split(prekey.mask_seed, threshold=params.threshold, holders=size, random=stream.read)
        self._secrets: dict[int, bytes] = {}
        self._shares: Shares | None = None
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._u1: frozenset[int] = frozenset()
        self._mask_seeds: MaskSeeds | None = None
        self._u2: frozenset[int] = frozenset()
        self._unmasked: tuple[UnmaskShare, ...] = ()

    @property
    def index(self) -> int:
        """This device's index in the roster."""
        return self._own

    def shares(self) -> Shares:
        """E1: a share of b and one of s for every peer, sealed to it. Asked again, the same bytes are given again.

        Raises:
            BadPeerKey: a peer's channel key has low order.
        """
        if self._shares is None:
            agreement = Agreement(self._prekey.channel_private)
            for peer in self._peers():
                try:
                    self._secrets[peer] = agreement.with_peer(self._roster[peer].channel_public)
                except LowOrderError as error:
                    raise BadPeerKey(peer, "channel") from error
            sealed = tuple(
                ChaCha20Poly1305(self._channel_key(self._own, peer)).encrypt(
                    _NONCE, self._b_shares[peer] + self._s_shares[peer], self._aad(self._own, peer)
                )
                for peer in self._peers()
            )
            self._shares = Shares(seeds.self_commitment(self._b, self._binding, self._own), sealed)
        return self._shares

    def mask_seeds(self, u1: frozenset[int], sealed_for_me: Mapping[int, bytes]) -> MaskSeeds:
        """E2: open and keep the shares of the peers in U1, and derive the seeds of the masks.

        Args:
            u1: who shared, this device included.
            sealed_for_me: for each peer in U1, what it sealed for this device.

        Raises:
            OutOfOrder: before `shares`.
            Equivocation: asked before with another U1.
            TooFewSurvivors: U1 is smaller than the threshold.
            BadInput: U1 lacks this device or names a stranger, or the sealed texts are not exactly those of U1.
            BadShare: a sealed text does not open, or holds no share.
            BadPeerKey: a peer's mask key has low order.
        """
        if self._shares is None:
            raise OutOfOrder("mask_seeds was asked for before shares")
        if self._mask_seeds is not None:
            if u1 != self._u1:
                raise Equivocation("asked to mask for a second set of members; the first one stands")
            return self._mask_seeds
        check_indices("U1", u1, self._params.size)
        if self._own not in u1:
            raise BadInput(f"U1 lacks this device, member {self._own}")
        if len(u1) < self._params.threshold:
            raise TooFewSurvivors("U1, who shared", len(u1), self._params.threshold)
        if frozenset(sealed_for_me) != u1 - {self._own}:
            raise BadInput("the sealed shares are not exactly those of the peers in U1")
        held = {peer: self._open(peer, sealed_for_me[peer]) for peer in sorted(sealed_for_me)}
        held[self._own] = (self._b_shares[self._own], self._s_shares[self._own])
        mask_key = Agreement(mask_private(self._prekey.mask_seed))
        pairs = tuple(
            (seeds.pair_sign(self._own, peer), self._pair_seed(mask_key, peer)) for peer in sorted(sealed_for_me)
        )
        self._held = held
        self._u1 = u1
        self._mask_seeds = MaskSeeds(seeds.self_seed(self._b, self._binding, self._own), pairs)
        return self._mask_seeds

    def unmask(self, u2: frozenset[int]) -> tuple[UnmaskShare, ...]:
        """E4: for every member of U1 exactly one share: of b if it is in U2, of s if not. For one U2, ever.

        To be called only after the signatures of E3 (at least a threshold of them, over this U2) were checked.

        Args:
            u2: whose vectors are in the sum.

        Returns:
            One share for each member of U1 (this device included), sorted by owner.

        Raises:
            OutOfOrder: before `mask_seeds`.
            Equivocation: asked before with another U2.
            BadInput: U2 is no subset of U1 or lacks this device.
            TooFewSurvivors: U2 is smaller than the threshold.
        """
        if self._mask_seeds is None:
            raise OutOfOrder("unmask was asked for before mask_seeds")
        if self._unmasked:
            if u2 != self._u2:
                raise Equivocation("asked to unmask a second set of survivors; the first answer stands")
            return self._unmasked
        if not u2 <= self._u1:
            raise BadInput(f"U2 names members {sorted(u2 - self._u1)}, who are not in U1")
        if self._own not in u2:
            raise BadInput(f"U2 lacks this device, member {self._own}")
        if len(u2) < self._params.threshold:
            raise TooFewSurvivors("U2, who survived", len(u2), self._params.threshold)
        self._u2 = u2
        self._unmasked = tuple(
            UnmaskShare(owner, owner not in u2, self._held[owner][owner not in u2]) for owner in sorted(self._u1)
        )
        return self._unmasked

    def _peers(self) -> tuple[int, ...]:
        return tuple(index for index in range(self._params.size) if index != self._own)

    def _aad(self, source: int, target: int) -> bytes:
        return self._binding + seeds.index_bytes(source) + seeds.index_bytes(target)

    def _channel_key(self, source: int, target: int) -> bytes:
        """The key of one direction. It seals one text in its life, so that the nonce can be constant."""
        peer = target if source == self._own else source
        return derive(self._secrets[peer], SEAL, self._aad(source, target))

    def _open(self, peer: int, sealed: bytes) -> tuple[bytes, bytes]:
        if len(sealed) != SEALED_BYTES:
            raise BadShare(peer, sealed, f"{len(sealed)} bytes instead of {SEALED_BYTES}")
        try:
            opened = ChaCha20Poly1305(self._channel_key(peer, self._own)).decrypt(
                _NONCE, sealed, self._aad(peer, self._own)
            )
            parse_share(opened[:SHARE_BYTES])
            parse_share(opened[SHARE_BYTES:])
        except InvalidTag as error:
            raise BadShare(peer, sealed, "it does not authenticate for this round and these two members") from error
        except BadInput as error:
            raise BadShare(peer, sealed, str(error)) from error
        return opened[:SHARE_BYTES], opened[SHARE_BYTES:]

    def _pair_seed(self, mask_key: Agreement, peer: int) -> bytes:
        try:
            secret = mask_key.with_peer(self._roster[peer].mask_public)
        except LowOrderError as error:
            raise BadPeerKey(peer, "mask") from error
        return seeds.pair_seed(secret, self._binding, self._own, peer)
