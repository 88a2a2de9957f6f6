"""Golden vectors, tests/vectors/secagg.json: what another implementation of FSA/1 has to reproduce.

Run this file to write them again after a change of the protocol: python tests/unit/protocol/secagg/test_vectors.py
"""

import json
from collections.abc import Callable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedge_protocol.secagg import labels, seeds
from fedge_protocol.secagg.bucket_sum import BucketSum
from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.kdf import derive, digest
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.member import Member, Peer
from fedge_protocol.secagg.params import BucketParams, Suite
from fedge_protocol.secagg.prekeys import Prekey, mask_private
from fedge_protocol.secagg.prg import Keystream
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.roster import round_binding
from fedge_protocol.secagg.rotation import rotate
from fedge_protocol.secagg.shamir import split
from fedge_protocol.secagg.x25519 import Agreement

PATH = Path(__file__).parents[3] / "vectors" / "secagg.json"

Record = dict[str, Any]


def counting(start: int, count: int) -> bytes:
    return bytes((start + i) % 256 for i in range(count))


def floats(dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values that float32 holds exactly."""
    return np.array([((37 * i) % 101 - 50) / 64 for i in range(dim)], dtype="<f4")


PREKEYS = [Prekey(10 + i, counting(16 * i, 16), counting(128 + 32 * i, 32)) for i in range(4)]
PARAMS = BucketParams.for_size(4, Suite.CHACHA20)
ROSTER = tuple(Peer(f"{i:032x}", key.mask_public, key.channel_public) for i, key in enumerate(PREKEYS))
CONTEXT = counting(3, 32)
MODEL_HASH = counting(7, 32)


def kdf() -> Record:
    parts = [b"", b"part", counting(0, 40)]
    return {
        "secret": counting(1, 32).hex(),
        "label": labels.PAIR.decode(),
        "parts": [part.hex() for part in parts],
        "derive": derive(counting(1, 32), labels.PAIR, *parts).hex(),
        "digest": digest(labels.PAIR, *parts).hex(),
    }


def prg() -> Record:
    seed = counting(9, 32)
    return {
        "seed": seed.hex(),
        **{
            suite.name: {
                "suite": int(suite),
                "first_64_bytes": Keystream(suite, seed).read(64).hex(),
                "sha256_of_first_200000_bytes": sha256(Keystream(suite, seed).read(200_000)).hexdigest(),
            }
            for suite in Suite
        },
    }


def prekeys() -> Record:
    return {
        "prekeys": [
            {
                "mask_seed": key.mask_seed.hex(),
                "mask_private": mask_private(key.mask_seed).hex(),
                "mask_public": key.mask_public.hex(),
                "channel_private": key.channel_private.hex(),
                "channel_public": key.channel_public.hex(),
            }
            for key in PREKEYS
        ]
    }


def mask_seeds() -> Record:
    binding = round_binding(PARAMS, ROSTER, CONTEXT, MODEL_HASH)
    secret = Agreement(mask_private(PREKEYS[1].mask_seed)).with_peer(PREKEYS[3].mask_public)
    b = counting(200, 16)
    return {
        "params": {"size": 4, "threshold": 3, "levels": PARAMS.levels, "suite": 1, "ring_bits": 16},
        "devices": [peer.device for peer in ROSTER],
        "context": CONTEXT.hex(),
        "model_hash": MODEL_HASH.hex(),
        "binding": binding.hex(),
        "pair": {"members": [1, 3], "x25519": secret.hex(), "seed": seeds.pair_seed(secret, binding, 3, 1).hex()},
        "self": {
            "member": 2,
            "b": b.hex(),
            "seed": seeds.self_seed(b, binding, 2).hex(),
            "commitment": seeds.self_commitment(b, binding, 2).hex(),
        },
    }


def shamir() -> Record:
    secret = counting(240, 16)
    random = counting(5, 4 * 5 * 2)
    return {
        "secret": secret.hex(),
        "threshold": 3,
        "random_bytes": random.hex(),
        "shares": [share.hex() for share in split(secret, threshold=3, holders=5, random=lambda count: random[:count])],
    }


def buckets() -> Record:
    seed = counting(11, 32)
    ready = [(sha256(bytes([i])).hexdigest()[:32], sha256(bytes([i, i])).digest()[:16]) for i in range(70)]
    return {
        "seed": seed.hex(),
        "ready": [[device, nonce.hex()] for device, nonce in ready],
        "buckets": [list(bucket) for bucket in assign(seed, ready)],
    }


def coding() -> Record:
    seed, entropy, vector = counting(13, 32), counting(17, 32), floats(150)
    rotated = rotate(vector, seed)
    large = rotate(floats(10_000), seed)
    coded = quantise(rotated, coordinate_range=4.0, levels=1023, weight=3, weight_max=4, random=lambda _: entropy)
    return {
        "vector_float32": vector.tobytes().hex(),
        "rotation_seed": seed.hex(),
        "rotated_float32": rotated.tobytes().hex(),
        "sha256_of_rotated_10000": sha256(large.tobytes()).hexdigest(),
        "rounding_entropy": entropy.hex(),
        "coordinate_range": 4.0,
        "levels": 1023,
        "weight": 3,
        "weight_max": 4,
        "coded_uint16": coded.tobytes().hex(),
    }


def a_round() -> Record:
    """Four members share, member 2 then drops out, the sum of the other three is found."""
    entropy = [counting(50 * i, 32) for i in range(4)]

    def source(i: int) -> Callable[[int], bytes]:
        return lambda _: entropy[i]

    members = [
        Member(PARAMS, ROSTER, peer.device, PREKEYS[i], CONTEXT, MODEL_HASH, source(i)) for i, peer in enumerate(ROSTER)
    ]
    shares = [member.shares() for member in members]
    u1, u2 = frozenset(range(4)), frozenset({0, 1, 3})
    given = [
        members[i].mask_seeds(u1, {j: shares[j].sealed[i if i < j else i - 1] for j in u1 if j != i}) for i in range(4)
    ]
    coded = {i: np.array([i, 65535 - i, 100 * i, 0], dtype="<u2") for i in u2}
    running = BucketSum(PARAMS, ROSTER, CONTEXT, MODEL_HASH, 4)
    masked = {
        i: mask(x, self_seed=given[i].self_seed, pairs=given[i].pairs, suite=PARAMS.suite).tobytes()
        for i, x in coded.items()
    }
    for i, vector in masked.items():
        running.add(i, vector)
    answers = {i: members[i].unmask(u2) for i in u2}
    out = running.finish(u1, u2, {i: shares[i].self_commitment for i in u1}, answers)
    return {
        "entropy": [value.hex() for value in entropy],
        "commitments": [share.self_commitment.hex() for share in shares],
        "sealed": [[sealed.hex() for sealed in share.sealed] for share in shares],
        "self_seeds": [value.self_seed.hex() for value in given],
        "pairs": [[[sign, seed.hex()] for sign, seed in value.pairs] for value in given],
        "survivors": sorted(u2),
        "coded": {str(i): x.tobytes().hex() for i, x in coded.items()},
        "masked": {str(i): vector.hex() for i, vector in masked.items()},
        "answers": {
            str(i): [[share.owner, share.of_mask_key, share.share.hex()] for share in answer]
            for i, answer in answers.items()
        },
        "revealed_self": {str(i): b.hex() for i, b in out.revealed_self.items()},
        "revealed_mask": {str(i): s.hex() for i, s in out.revealed_mask.items()},
        "total": out.total.tobytes().hex(),
    }


SECTIONS: dict[str, Callable[[], Record]] = {
    "kdf": kdf,
    "prg": prg,
    "prekeys": prekeys,
    "mask_seeds": mask_seeds,
    "shamir": shamir,
    "buckets": buckets,
    "coding": coding,
    "round": a_round,
}


@pytest.fixture(scope="module")
def golden():
    return json.loads(PATH.read_text())


@pytest.mark.parametrize("section", SECTIONS)
def test_the_code_reproduces_the_golden_vectors(golden, section):
    assert json.loads(json.dumps(SECTIONS[section]())) == golden[section]


def test_no_section_of_the_file_is_unchecked(golden):
    assert golden.keys() == SECTIONS.keys()


def independent_kdf(secret: str, label: str, parts: list[bytes]) -> str:
    data = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return blake2b(
        data, digest_size=32, key=bytes.fromhex(secret), person=label.encode() + bytes(16 - len(label))
    ).hexdigest()


def test_the_vectors_follow_from_the_text_of_the_specification_alone(golden):
    """A second derivation with nothing but hashlib and integers, as someone would write it from the documentation."""
    vector = golden["kdf"]
    parts = [bytes.fromhex(part) for part in vector["parts"]]
    assert independent_kdf(vector["secret"], vector["label"], parts) == vector["derive"]

    vector = golden["mask_seeds"]
    keys = golden["prekeys"]["prekeys"]
    numbers = b"".join(
        vector["params"][name].to_bytes(4, "little") for name in ("size", "threshold", "levels", "suite", "ring_bits")
    )
    roster = [
        field
        for device, key in zip(vector["devices"], keys, strict=True)
        for field in (device.encode(), bytes.fromhex(key["mask_public"]), bytes.fromhex(key["channel_public"]))
    ]
    bound = [bytes.fromhex(vector["context"]), bytes.fromhex(vector["model_hash"]), numbers, *roster]
    assert independent_kdf("", "fsa1 binding", bound) == vector["binding"]
    binding = bytes.fromhex(vector["binding"])
    two = [(1).to_bytes(2, "little"), (3).to_bytes(2, "little")]
    assert independent_kdf(vector["pair"]["x25519"], "fsa1 pair", [binding, *two]) == vector["pair"]["seed"]
    own = (2).to_bytes(2, "little")
    assert independent_kdf(vector["self"]["b"], "fsa1 self-mask", [binding, own]) == vector["self"]["seed"]
    assert independent_kdf(vector["self"]["b"], "fsa1 commit", [binding, own]) == vector["self"]["commitment"]

    vector = golden["shamir"]
    prime, secret = 2**31 - 1, int.from_bytes(bytes.fromhex(vector["secret"]), "little")
    random = bytes.fromhex(vector["random_bytes"])
    words = [int.from_bytes(random[i : i + 4], "little") & prime for i in range(0, len(random), 4)]
    for x, share in enumerate(vector["shares"], start=1):
        values = [
            ((secret >> 27 * limb) % 2**27 + words[limb] * x + words[5 + limb] * x * x) % prime for limb in range(5)
        ]
        assert b"".join(value.to_bytes(4, "little") for value in values).hex() == share

    vector = golden["round"]
    coded = [np.frombuffer(bytes.fromhex(x), dtype="<u2").astype(int) for x in vector["coded"].values()]
    assert (np.sum(coded, axis=0) % 65536).astype("<u2").tobytes().hex() == vector["total"]


def test_the_coded_vector_follows_from_the_rotated_one_and_the_keystream_in_integers(golden):
    vector = golden["coding"]
    key = bytes.fromhex(independent_kdf(vector["rounding_entropy"], "fsa1 rounding", []))
    rotated = np.frombuffer(bytes.fromhex(vector["rotated_float32"]), dtype="<f4")
    uniforms = np.frombuffer(Keystream(Suite.CHACHA20, key).read(2 * len(rotated)), dtype="<u2")
    scale = np.float32(
        vector["levels"] * 65536 * vector["weight"] / (vector["weight_max"] * vector["coordinate_range"])
    )
    expected = [
        ((round(float(value * scale)) + int(uniform)) >> 16) % 65536
        for value, uniform in zip(rotated, uniforms, strict=True)
    ]
    assert np.array(expected, dtype="<u2").tobytes().hex() == vector["coded_uint16"]


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: build() for name, build in SECTIONS.items()}, indent=1) + "\n")
