"""How the mean update becomes the next model. FedProx differs on the device only (Li et al. 2020)."""

import numpy as np
import numpy.typing as npt


def apply_mean(weights: bytes, mean: npt.NDArray[np.float64], *, server_learning_rate: float) -> bytes:
    """FedAvg (McMahan et al. 2017): weights + server_learning_rate * mean, as little-endian float32.

    Args:
        weights: the round's starting weights, little-endian float32, flat.
        mean: (dim,) float64.
        server_learning_rate: 1.0 is plain averaging.

    Raises:
        ValueError: the shapes differ, or the result is not finite.
    """
    before = np.frombuffer(weights, "<f4")
    if before.shape != mean.shape:
        raise ValueError(f"{before.shape[0]} weights, {mean.shape[0]} updates")
    after = (before.astype(np.float64) + server_learning_rate * mean).astype("<f4")
    if not np.isfinite(after).all():
        raise ValueError("the next weights are not finite")
    return after.tobytes()
