"""From the clear update in memory to the masked vector on disk."""

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.pipe import Mask
from fedge_protocol.secagg.errors import SecAggError
from fedge_protocol.secagg.masking import mask
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.quantise import quantise
from fedge_protocol.secagg.rotation import rotate


def masked_bytes(delta: npt.NDArray[np.float32], request: Mask) -> bytes:
    """Rotate, quantise with random rounding and mask `delta` (dim,): little-endian uint16, dim padded by the rotation.

    Raises:
        TrainingError: `bad-request`: the parameters do not fit together.
    """
    try:
        quantised = quantise(
            rotate(delta, request.rotation_seed),
            coordinate_range=request.coordinate_range,
            levels=request.levels,
            weight=request.weight,
            weight_max=request.weight_max,
        )
        pairs = [(pair.sign, pair.seed) for pair in request.pairs]
        masked = mask(quantised, self_seed=request.self_seed, pairs=pairs, suite=Suite(request.suite))
    except (SecAggError, ValueError) as error:
        raise TrainingError(Reason.BAD_REQUEST, str(error)) from error
    return masked.astype("<u2").tobytes()


def write_masked(content: bytes, path: Path) -> bytes:
    """Write a new file that only its owner can read; returns the SHA-256 of the content.

    Not synced: the daemon makes its own copy durable (`federation.handover`).

    Raises:
        TrainingError: `bad-output`: the file exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise TrainingError(Reason.BAD_OUTPUT, f"{path}: {error.strerror}") from error
    return hashlib.sha256(content).digest()
