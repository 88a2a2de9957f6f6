"""What the secure aggregation refuses, as the named reasons that go into metrics and to the coordinator."""

from collections.abc import Iterator
from contextlib import contextmanager

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.secagg.errors import BadShare, Equivocation, OwnKeyAltered, SecAggError, TooFewSurvivors

_REASONS: dict[type[SecAggError], Reason] = {
    BadShare: Reason.BAD_SHARE,
    Equivocation: Reason.EQUIVOCATION,
    OwnKeyAltered: Reason.BAD_SIGNATURE,
    TooFewSurvivors: Reason.BELOW_THRESHOLD,
}


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `SecAggError` of the block into a `RefusedError`."""
    try:
        yield
    except SecAggError as error:
        raise RefusedError(_REASONS.get(type(error), Reason.MALFORMED), str(error)) from error
