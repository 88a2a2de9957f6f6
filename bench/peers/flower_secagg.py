"""Flower's SecAgg+ on one complete bucket, by its own functions: CPU time of a client and of the server, as JSON.

Run by bench/secagg.py with an interpreter that has flwr (tested with 1.41.0). The clients run Flower's four stages as
they are; the server's loop is that of `SecAggPlusWorkflow.unmask_stage`, with Flower's functions, without its network.
Flower signs nothing, so there are no signatures to check. No part of Fedge is imported.

Usage: flower_secagg.py N THRESHOLD DROPS DIM
"""
# flwr lives in another environment.
# mypy: disable-error-code="import-not-found"

import json
import sys
from importlib import import_module
from importlib.metadata import version
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

client = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # the package hides it behind a function

CLIPPING_RANGE = 8.0
TARGET_RANGE = 1 << 22  # Flower's defaults
MOD_RANGE = 1 << 32
MAX_WEIGHT = 1000.0


class Clock:
    """CPU milliseconds of each member, -1 being the server."""

    def __init__(self) -> None:
        self.spent_ms: dict[int, float] = {}

    def __call__(self, member: int, function: Any, *arguments: Any) -> Any:
        """Call on the account of `member`."""
        start = process_time()
        result = function(*arguments)
        self.spent_ms[member] = self.spent_ms.get(member, 0.0) + 1e3 * (process_time() - start)
        return result


def unmask(
    total: list[Any], shares: dict[int, list[bytes]], active: set[int], keys: dict[int, tuple[bytes, bytes]]
) -> tuple[int, list[Any]]:
    """`unmask_stage`: reconstruct every secret, remove every mask."""
    for owner, given in shares.items():
        secret = combine_shares(given)
        if owner in active:
            total = parameters_subtraction(total, pseudo_rand_gen(secret, MOD_RANGE, get_parameters_shape(total)))
            continue
        for peer in keys.keys() - {owner}:
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(keys[peer][0]))
            mask = pseudo_rand_gen(shared, MOD_RANGE, get_parameters_shape(total))
            total = (parameters_addition if owner > peer else parameters_subtraction)(total, mask)
    ratio, coded = factor_extract(parameters_mod(total, MOD_RANGE))
    return ratio, dequantize(coded, CLIPPING_RANGE, TARGET_RANGE)


def main() -> None:
    """Run one round and print what it cost."""
    size, threshold, drops, dim = (int(argument) for argument in sys.argv[1:5])
    clock = Clock()
    config: Any = {
        Key.SAMPLE_NUMBER: size,
        Key.SHARE_NUMBER: size,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: CLIPPING_RANGE,
        Key.TARGET_RANGE: TARGET_RANGE,
        Key.MOD_RANGE: MOD_RANGE,
        Key.MAX_WEIGHT: MAX_WEIGHT,
    }
    states = {i: client.SecAggPlusState(nid=i) for i in range(1, size + 1)}
    for i, state in states.items():
        clock(i, client._setup, state, config)  # noqa: SLF001 - the stage itself is what is measured
    keys = {i: (state.pk1, state.pk2) for i, state in states.items()}
    sealed: dict[int, dict[int, bytes]] = {i: {} for i in states}
    for i, state in states.items():
        out = clock(i, client._share_keys, state, dict(keys))  # noqa: SLF001
        for target, text in zip(out[Key.DESTINATION_LIST], out[Key.CIPHERTEXT_LIST], strict=True):
            sealed[target][i] = text
    active = set(range(1, size - drops + 1))
    vector = np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    total: list[Any] = []
    upload_bytes = 0
    for i in sorted(active):
        inbound: Any = {Key.CIPHERTEXT_LIST: list(sealed[i].values()), Key.SOURCE_LIST: list(sealed[i])}
        given = ndarrays_to_parameters([vector])
        out = clock(i, client._collect_masked_vectors, states[i], inbound, 1000, given)  # noqa: SLF001
        upload_bytes = sum(len(part) for part in out[Key.MASKED_PARAMETERS])
        masked = clock(-1, lambda parts: [bytes_to_ndarray(part) for part in parts], out[Key.MASKED_PARAMETERS])
        total = clock(-1, parameters_addition, total, masked) if total else masked
    shares: dict[int, list[bytes]] = {i: [] for i in states}
    question: Any = {Key.ACTIVE_NODE_ID_LIST: sorted(active), Key.DEAD_NODE_ID_LIST: sorted(states.keys() - active)}
    for i in sorted(active):
        out = clock(i, client._unmask, states[i], question)  # noqa: SLF001
        for owner, share in zip(out[Key.NODE_ID_LIST], out[Key.SHARE_LIST], strict=True):
            shares[owner].append(share)
    ratio, coded = clock(-1, unmask, total, shares, active, keys)
    mean = (coded[0] - (len(active) - 1) * CLIPPING_RANGE) * (TARGET_RANGE / ratio)
    error = float(np.abs(mean - np.clip(vector, -CLIPPING_RANGE, CLIPPING_RANGE)).max())
    if error > 1e-3:
        raise RuntimeError(f"Flower's mean is off by {error}: this script does not fit this version of flwr")
    print(
        json.dumps(
            {
                "flwr": version("flwr"),
                "client_ms": round(median(clock.spent_ms[i] for i in active), 3),
                "server_ms": round(clock.spent_ms[-1], 3),
                "upload_bytes": upload_bytes,
                "largest_error": error,
            }
        )
    )


if __name__ == "__main__":
    main()
