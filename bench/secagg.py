"""Secure aggregation: CPU time of a device and of the server, for one bucket of 32 and for 1000 devices in buckets.

All cryptography of E1 to E4 runs for real and for every device, its ES256 signatures included, and every sum is checked
to be exact. Not included: CBOR and COSE framing, HPKE around E4, MQTT, certificates (checked once, then known),
persistence. Members drop out after sharing, which costs the server most. One thread, `time.process_time`.

The peer, Flower's SecAgg+ with the same n, t, d and drop-outs, runs when the interpreter has flwr, or another one that
has is named. Flower checks no signatures. For n = 1000 it is not run: it takes many minutes.

Usage: bench/secagg.py [--json] [--repeats N] [--suite 1|2] [--flower-python PATH]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fedge_protocol.secagg.bucket_sum import BucketSum
from fedge_protocol.secagg.buckets import assign
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.member import MaskSeeds, Member, Peer, Shares, UnmaskShare
from fedge_protocol.secagg.padding import coordinate_range_for, padded_dim
from fedge_protocol.secagg.params import BucketParams, Suite
from fedge_protocol.secagg.prekeys import generate
from fedge_protocol.secagg.quantise import dequantise_sum, quantise
from fedge_protocol.secagg.rotation import rotate, unrotate
from figures import bar, machine, table

DIM: Final = 100_000
CLIP_NORM: Final = 1.0
ES256: Final = ec.ECDSA(SHA256())
CONTEXT: Final = sha256(b"bench round").digest()
MODEL_HASH: Final = sha256(b"bench model").digest()
STATEMENT: Final = bytes(150)

T = TypeVar("T")
Ring = npt.NDArray[np.uint16]


class Stopwatch:
    """Adds up the CPU milliseconds of named pieces of work."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Run `work` on the account of `name`."""
        start = process_time()
        result = work()
        self.spent_ms[name] = self.spent_ms.get(name, 0.0) + 1e3 * (process_time() - start)
        return result

    @property
    def total_ms(self) -> float:
        """Of all pieces."""
        return sum(self.spent_ms.values())


@dataclass
class Device:
    """One device; `watch` holds what the round cost it."""

    index: int
    key: ec.EllipticCurvePrivateKey
    member: Member
    prekey_signature: bytes
    watch: Stopwatch = field(default_factory=Stopwatch)

    def sign(self) -> bytes:
        """Sign one message of a usual size."""
        return self.watch("ES256 signatures made", lambda: self.key.sign(STATEMENT, ES256))


def verify(keys: Sequence[ec.EllipticCurvePublicKey], signatures: Sequence[bytes]) -> None:
    """Check one signature of each key."""
    for key, signature in zip(keys, signatures, strict=True):
        key.verify(signature, STATEMENT, ES256)


class Bucket:
    """One bucket whose devices have run E1 to E4, `drops` of them not beyond E1."""

    def __init__(self, names: Sequence[str], drops: int, suite: Suite, update: npt.NDArray[np.float32]) -> None:
        size = len(names)
        self.params = BucketParams.for_size(size, suite)
        prekeys = generate(0, size)
        self.roster = tuple(
            Peer(name, key.mask_public, key.channel_public) for name, key in zip(names, prekeys, strict=True)
        )
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
        self.public_keys = [key.public_key() for key in keys]
        prekey_signatures = [key.sign(STATEMENT, ES256) for key in keys]
        self.u1 = frozenset(range(size))
        self.u2 = frozenset(range(size - drops))
        self.shares: list[Shares] = []
        self.devices: list[Device] = []
        for index, (key, prekey) in enumerate(zip(keys, prekeys, strict=True)):
            watch = Stopwatch()
            watch("ES256 signatures checked", lambda: verify(self.public_keys, prekey_signatures))
            member, shares = watch("E1 share", lambda: self._share(index, prekey))  # noqa: B023 - called at once
            self.devices.append(Device(index, key, member, prekey_signatures[index], watch))
            self.shares.append(shares)
        self.coded: dict[int, Ring] = {}
        self.vectors: dict[int, bytes] = {}
        self.answers: dict[int, tuple[UnmaskShare, ...]] = {}
        for device in self.devices[: len(self.u2)]:
            self._survive(device, update)

    def _share(self, index: int, prekey: Any) -> tuple[Member, Shares]:
        name = self.roster[index].device
        member = Member(self.params, self.roster, name, prekey, CONTEXT, MODEL_HASH)
        return member, member.shares()

    def _survive(self, device: Device, update: npt.NDArray[np.float32]) -> None:
        watch, own = device.watch, device.index
        inbound = {i: self.shares[i].sealed[own if own < i else own - 1] for i in self.u1 if i != own}
        seeds = watch("E2 mask seeds", lambda: device.member.mask_seeds(self.u1, inbound))
        rotated = watch("E2 rotate", lambda: rotate(update, sha256(b"%d" % own).digest()))  # no shared cache
        self.coded[own] = watch("E2 quantise", lambda: self._quantise(rotated))
        self.vectors[own] = watch("E2 mask", lambda: self._mask(self.coded[own], seeds))
        watch("E2 SHA-256", lambda: sha256(self.vectors[own]).digest())
        for _ in ("E1", "E2", "E3", "E4"):
            device.sign()
        threshold = self.params.threshold
        survivors = [device.prekey_signature for device in self.devices[:threshold]]
        watch("ES256 signatures checked", lambda: verify(self.public_keys[:threshold], survivors))
        self.answers[own] = watch("E4 unmask", lambda: device.member.unmask(self.u2))

    def _quantise(self, rotated: npt.NDArray[np.float32]) -> Ring:
        return quantise(
            rotated,
            coordinate_range=coordinate_range_for(CLIP_NORM, DIM),
            levels=self.params.levels,
            weight=1,
            weight_max=1,
        )

    def _mask(self, coded: Ring, seeds: MaskSeeds) -> bytes:
        return mask(coded, self_seed=seeds.self_seed, pairs=seeds.pairs, suite=self.params.suite).tobytes()

    def _mean(self, total: Ring) -> npt.NDArray[np.float64]:
        mean = dequantise_sum(
            total,
            coordinate_range=coordinate_range_for(CLIP_NORM, DIM),
            levels=self.params.levels,
            weight_sum=len(self.u2),
            weight_max=1,
        )
        return unrotate(mean, DIM, CONTEXT)

    def serve(self, watch: Stopwatch) -> None:
        """The server's work for this bucket; checks that the sum is exact."""
        signatures = [device.prekey_signature for device in self.devices]
        survivors = len(self.u2)
        watch("ES256 E1", lambda: verify(self.public_keys, signatures))
        for phase in ("E2", "E3", "E4"):
            watch(f"ES256 {phase}", lambda: verify(self.public_keys[:survivors], signatures[:survivors]))
        running = watch("add", lambda: BucketSum(self.params, self.roster, CONTEXT, MODEL_HASH, padded_dim(DIM)))
        for index, vector in self.vectors.items():
            watch("SHA-256", lambda: sha256(vector).digest())  # noqa: B023 - called at once
            watch("add", lambda: running.add(index, vector))  # noqa: B023 - called at once
        commitments = {index: shares.self_commitment for index, shares in enumerate(self.shares)}
        out = watch("unmask", lambda: running.finish(self.u1, self.u2, commitments, self.answers))
        watch("mean", lambda: self._mean(out.total))
        true = sum((coded.astype(np.int64) for coded in self.coded.values()), np.zeros(1, np.int64))
        if not np.array_equal(out.total, (true % 2**16).astype(np.uint16)) or out.faults:
            raise RuntimeError("the unmasked sum is not the sum of the coded updates")


@dataclass(frozen=True)
class Measured:
    """Medians, in CPU milliseconds."""

    device_ms: float
    server_ms: float
    device_parts_ms: dict[str, float]
    server_parts_ms: dict[str, float]


def run(devices: int, drop_share: float, suite: Suite, rounds: int, repeats: int) -> Measured:
    """Run `rounds` rounds of `devices`; the server's part of each `repeats` times."""
    update = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    update *= np.float32(CLIP_NORM) / np.linalg.norm(update)
    ready = [(sha256(bytes([i % 256, i // 256])).hexdigest()[:32], sha256(b"%d" % i).digest()) for i in range(devices)]
    device_watches: list[Stopwatch] = []
    server_watches: list[Stopwatch] = []
    for number in range(rounds):
        watches = [Stopwatch() for _ in range(repeats)]
        for names in assign(sha256(b"seed %d" % number).digest(), ready):
            bucket = Bucket(names, round(drop_share * len(names)), suite, update)
            for watch in watches:
                bucket.serve(watch)
            device_watches += [device.watch for device in bucket.devices[: len(bucket.u2)]]
        server_watches += watches
    return Measured(
        median(watch.total_ms for watch in device_watches),
        median(watch.total_ms for watch in server_watches),
        _medians(device_watches),
        _medians(server_watches),
    )


def _medians(watches: list[Stopwatch]) -> dict[str, float]:
    return {name: round(median(watch.spent_ms[name] for watch in watches), 3) for name in watches[0].spent_ms}


def run_flower(python: str) -> dict[str, Any] | None:
    """What `peers/flower_secagg.py` prints for n = 32, or None when this interpreter has no flwr."""
    if subprocess.run([python, "-c", "import flwr"], check=False, capture_output=True).returncode:
        return None
    script = Path(__file__).parent / "peers" / "flower_secagg.py"
    threshold = BucketParams.for_size(32).threshold
    command = [python, str(script), "32", str(threshold), "2", str(DIM)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def measure(suite: Suite, repeats: int, flower_python: str) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    run(32, 2 / 32, suite, 1, 1)  # warm up: imports, caches, page faults
    small = run(32, 2 / 32, suite, repeats, 3)
    large = run(1000, 0.1, suite, 1, 3)
    flower = run_flower(flower_python)
    peer = flower or {"client_ms": None, "server_ms": None}
    upload_ratio = 2 * padded_dim(DIM) / (4 * DIM)
    return {
        "bench": "secagg",
        "machine": machine(),
        "bars": [
            _bar("device, n = 32, d = 1e5, 2 drop-outs", "ms CPU", small.device_ms, 12, peer["client_ms"]),
            _bar("server, n = 32, d = 1e5, 2 drop-outs", "ms CPU", small.server_ms, 20, peer["server_ms"]),
            _bar("device, n = 1000 in buckets, d = 1e5, 10 % drop-outs", "ms CPU", large.device_ms, 12),
            _bar("server, n = 1000 in buckets, d = 1e5, 10 % drop-outs", "s CPU", large.server_ms / 1e3, 0.9),
            _bar(
                "masked vector, d = 1e5",
                "x of float32",
                upload_ratio,
                0.52,
                flower["upload_bytes"] / (4 * DIM) if flower else None,
            ),
        ],
        "details": {
            "suite": suite.name,
            "peer": flower or "skipped: flwr is not installed (pip install flwr, or --flower-python)",
            "device_ms_n32": small.device_parts_ms,
            "server_ms_n32": small.server_parts_ms,
            "device_ms_n1000": large.device_parts_ms,
            "server_ms_n1000": large.server_parts_ms,
        },
    }


def _bar(name: str, unit: str, value: float, limit: float, peer_value: float | None = None) -> dict[str, Any]:
    return bar(name, unit, value, limit, peer="Flower SecAgg+", peer_value=peer_value)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of secure aggregation")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the bucket of 32 (default 5)")
    parser.add_argument("--suite", type=int, default=1, choices=[1, 2], help="1 ChaCha20 (default), 2 AES-128-CTR")
    parser.add_argument(
        "--flower-python",
        default=os.environ.get("FEDGE_FLOWER_PYTHON", sys.executable),
        help="interpreter that has flwr (default: $FEDGE_FLOWER_PYTHON, or this one)",
    )
    arguments = parser.parse_args()
    result = measure(Suite(arguments.suite), arguments.repeats, arguments.flower_python)
    if arguments.json:
        print(json.dumps(result))
        return
    print(table(result["bars"]))
    print(f"peer: {result['details']['peer']}")
    for part in ("device_ms_n32", "server_ms_n32", "server_ms_n1000"):
        print(part, json.dumps(result["details"][part]))


if __name__ == "__main__":
    main()
