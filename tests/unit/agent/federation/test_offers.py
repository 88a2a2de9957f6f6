import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.federation.conftest import FLEET, an_offer

from fedge_agent.federation.offers import open_offer
from fedge_protocol.cose import encode
from fedge_protocol.eip712 import Domain, job_id
from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.messages import BlobRef, NoOffer

replace = msgspec.structs.replace
OFFER = an_offer()


def opened(body: bytes, job: str = "demo"):
    return open_offer(body, fleet=FLEET, job=job, domain=Domain(0, bytes(20)))


def refused(body: bytes, job: str = "demo") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        opened(body, job)
    return caught.value


def test_an_offer_and_the_word_that_there_is_none_are_told_apart():
    assert opened(encode(OFFER)) == OFFER
    none = NoOffer("demo", 4, finished=True)
    assert opened(encode(none)) == none


def test_another_protocol_version_is_refused_by_its_number():
    plain = msgspec.to_builtins(OFFER, builtin_types=(bytes,))
    for version in (0, 2, 77):
        error = refused(encode([version, *plain[1:]]))
        assert error.reason is Reason.UNSUPPORTED
        assert str(version) in error.detail
    # what a later version adds does not hide that it is a later version
    assert refused(encode([2, "anything", {"else": 1}])).reason is Reason.UNSUPPORTED


def test_the_first_reason_of_a_refused_offer_is_not_lost():
    plain = msgspec.to_builtins(OFFER, builtin_types=(bytes,))
    plain[9] = "training"
    error = refused(encode(plain))
    assert error.reason is Reason.MALFORMED
    assert "$[9]" in error.detail  # the place in the offer, not in what stands for none


def test_an_offer_of_another_job_is_refused():
    assert refused(encode(OFFER), "other").reason is Reason.WRONG_TOPIC
    assert refused(encode(NoOffer("demo", 1, finished=False)), "other").reason is Reason.WRONG_TOPIC


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain_id": 1}, Reason.UNTRUSTED),
        ({"registry": b"\x01" * 20}, Reason.UNTRUSTED),
        ({"job_id": job_id(FLEET, "other")}, Reason.WRONG_JOB),
        ({"job_id": job_id("other", "demo")}, Reason.WRONG_JOB),
        ({"dim": 65}, Reason.MALFORMED),
        ({"weights": BlobRef(bytes(32), 1)}, Reason.MALFORMED),
        ({"seal_key": bytes(32)}, Reason.MALFORMED),
        ({"seal_key": b"\x01" + bytes(31)}, Reason.MALFORMED),
    ],
)
def test_an_offer_that_is_not_what_this_device_pinned_or_does_not_fit_together_is_refused(changes, reason):
    assert refused(encode(replace(OFFER, **changes))).reason is reason


def test_receipts_count_on_the_chain_of_the_enrolment():
    domain = Domain(31337, b"\x07" * 20)
    offer = replace(OFFER, chain_id=31337, registry=b"\x07" * 20)
    assert open_offer(encode(offer), fleet=FLEET, job="demo", domain=domain) == offer


@given(
    st.binary(max_size=300)
    | st.recursive(st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner, max_size=5)).map(cbor2.dumps)
)
def test_hostile_bodies_are_refused_and_nothing_else(body):
    assert refused(body).reason in {Reason.MALFORMED, Reason.UNSUPPORTED, Reason.WRONG_TOPIC}
