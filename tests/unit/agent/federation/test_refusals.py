import pytest

from fedge_agent.federation.refusals import refusing
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.secagg.errors import (
    BadInput,
    BadPeerKey,
    BadRoster,
    BadShare,
    Equivocation,
    OutOfOrder,
    OwnKeyAltered,
    SecAggError,
    TooFewSurvivors,
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadShare(1, b"", "it does not open"), Reason.BAD_SHARE),
        (Equivocation("a second set"), Reason.EQUIVOCATION),
        (OwnKeyAltered("other keys"), Reason.BAD_SIGNATURE),
        (TooFewSurvivors("U2", 1, 3), Reason.BELOW_THRESHOLD),
        (BadPeerKey(1, "mask"), Reason.MALFORMED),
        (BadRoster("not sorted"), Reason.MALFORMED),
        (BadInput("too short"), Reason.MALFORMED),
        (OutOfOrder("too early"), Reason.MALFORMED),
    ],
)
def test_what_secure_aggregation_refuses_has_a_name_on_the_wire(error: SecAggError, reason: Reason):
    with pytest.raises(RefusedError) as caught, refusing():
        raise error
    assert caught.value.reason is reason
    assert caught.value.__cause__ is error


def test_any_other_error_goes_through():
    with pytest.raises(KeyError), refusing():
        raise KeyError("own mistake")
