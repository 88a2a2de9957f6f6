"""A bucket of real members, with nothing between them but function calls."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from fedge_protocol.secagg.bucket_sum import BucketSum, Unmasked
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.member import MaskSeeds, Member, Peer, Shares, UnmaskShare
from fedge_protocol.secagg.params import BucketParams, Suite
from fedge_protocol.secagg.prekeys import Prekey, generate
from fedge_protocol.secagg.prg import Keystream

Ring = npt.NDArray[np.uint16]


def stream_of(name: str) -> Callable[[int], bytes]:
    """A random source that gives the same bytes in every run."""
    return Keystream(Suite.CHACHA20, name.encode().ljust(32, b".")[:32]).read


@dataclass
class Bucket:
    """Everything of one round of one bucket."""

    params: BucketParams
    prekeys: tuple[Prekey, ...]
    roster: tuple[Peer, ...]
    context: bytes
    model_hash: bytes
    members: list[Member]
    shares: dict[int, Shares] = field(default_factory=dict)
    seeds: dict[int, MaskSeeds] = field(default_factory=dict)
    u1: frozenset[int] = frozenset()

    def share(self, u1: Iterable[int]) -> None:
        """E1 and the keys of E2 for everyone in U1."""
        self.u1 = frozenset(u1)
        self.shares = {i: self.members[i].shares() for i in sorted(self.u1)}
        self.seeds = {i: self.members[i].mask_seeds(self.u1, self.sealed_for(i)) for i in sorted(self.u1)}

    def sealed_for(self, target: int) -> dict[int, bytes]:
        return {i: self.shares[i].sealed[target if target < i else target - 1] for i in self.u1 if i != target}

    def commitments(self) -> dict[int, bytes]:
        return {i: given.self_commitment for i, given in self.shares.items()}

    def masked(self, index: int, quantised: Ring) -> bytes:
        seeds = self.seeds[index]
        return mask(quantised, self_seed=seeds.self_seed, pairs=seeds.pairs, suite=self.params.suite).tobytes()

    def summed(self, vectors: dict[int, Ring]) -> BucketSum:
        dim = len(next(iter(vectors.values())))
        bucket_sum = BucketSum(self.params, self.roster, self.context, self.model_hash, dim)
        for index, vector in vectors.items():
            bucket_sum.add(index, self.masked(index, vector))
        return bucket_sum

    def answers(self, u2: frozenset[int], holders: Iterable[int]) -> dict[int, tuple[UnmaskShare, ...]]:
        return {holder: self.members[holder].unmask(u2) for holder in holders}

    def run(self, vectors: dict[int, Ring], holders: Iterable[int]) -> Unmasked:
        """From E2 to the sum: `vectors` are the survivors', `holders` answer in E4."""
        u2 = frozenset(vectors)
        return self.summed(vectors).finish(self.u1, u2, self.commitments(), self.answers(u2, holders))


def make(size: int, *, suite: Suite = Suite.CHACHA20, name: str = "bucket", context: bytes = b"c" * 32) -> Bucket:
    params = BucketParams.for_size(size, suite)
    prekeys = generate(0, size, stream_of(f"{name} prekeys {size}"))
    devices = [f"{index:032x}" for index in range(size)]
    roster = tuple(
        Peer(device, key.mask_public, key.channel_public) for device, key in zip(devices, prekeys, strict=True)
    )
    model_hash = b"m" * 32
    members = [
        Member(params, roster, device, prekeys[i], context, model_hash, stream_of(f"{name} member {i}"))
        for i, device in enumerate(devices)
    ]
    return Bucket(params, prekeys, roster, context, model_hash, members)


@pytest.fixture
def make_bucket() -> Callable[..., Bucket]:
    return make


@pytest.fixture
def seeded() -> Callable[[str], Callable[[int], bytes]]:
    return stream_of
