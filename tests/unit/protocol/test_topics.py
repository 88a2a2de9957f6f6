"""Topics: what is built parses back, and nothing else parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol import topics
from fedge_protocol.errors import Reason, RefusedError

DEVICE = "0123456789abcdef" * 2
SHA256 = "ab" * 32

fleets = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)
jobs = st.from_regex(r"[a-z0-9-]{1,48}", fullmatch=True)
devices = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
kinds = st.from_regex(r"[a-z-]{1,24}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
chunks = st.integers(0, topics.MAX_CHUNKS - 1)


@given(fleets, jobs, devices, kinds, digests, chunks)
def test_every_topic_parses_back_to_what_it_was_built_from(fleet, job, device, kind, digest, chunk):
    assert topics.parse(topics.offer(fleet, job)) == topics.OfferTopic(fleet, job)
    assert topics.parse(topics.blob(fleet, digest, chunk)) == topics.BlobTopic(fleet, digest, chunk)
    assert topics.parse(topics.up(fleet, device, kind)) == topics.UpTopic(fleet, device, kind)
    assert topics.parse(topics.down(fleet, device, kind)) == topics.DownTopic(fleet, device, kind)
    assert topics.parse(topics.presence(fleet, device)) == topics.PresenceTopic(fleet, device)
    up_chunk = topics.up_chunk(fleet, device, digest, chunk)
    assert topics.parse(up_chunk) == topics.UpChunkTopic(fleet, device, digest, chunk)


def test_the_tree_is_the_one_of_the_design():
    assert topics.offer("lab", "digits") == "fedge/v1/lab/job/digits/offer"
    assert topics.blob("lab", SHA256, 7) == f"fedge/v1/lab/blob/{SHA256}/7"
    assert topics.up("lab", DEVICE, "ready") == f"fedge/v1/lab/device/{DEVICE}/up/ready"
    assert topics.down("lab", DEVICE, "ack") == f"fedge/v1/lab/device/{DEVICE}/down/ack"
    assert topics.presence("lab", DEVICE) == f"fedge/v1/lab/device/{DEVICE}/presence"
    assert topics.up_chunk("lab", DEVICE, SHA256, 0) == f"fedge/v1/lab/device/{DEVICE}/up/chunk/{SHA256}/0"


def test_the_filters_are_the_ones_that_the_access_list_allows():
    assert topics.offers_filter("lab") == "fedge/v1/lab/job/+/offer"
    assert topics.offers_filter("lab", "digits") == "fedge/v1/lab/job/digits/offer"
    assert topics.blob_filter("lab", SHA256) == f"fedge/v1/lab/blob/{SHA256}/+"
    assert topics.down_filter("lab", DEVICE) == f"fedge/v1/lab/device/{DEVICE}/down/+"
    assert topics.up_filter("lab") == "fedge/v1/lab/device/+/up/#"
    assert topics.presence_filter("lab") == "fedge/v1/lab/device/+/presence"
    assert topics.shared("intake", topics.up_filter("lab")) == "$share/intake/fedge/v1/lab/device/+/up/#"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "fedge/v2/lab/job/digits/offer",
        "fedge/v1/lab/job/digits",
        "fedge/v1/lab/job/digits/offer/x",
        "fedge/v1//job/digits/offer",
        "fedge/v1/LAB/job/digits/offer",
        "fedge/v1/+/job/digits/offer",
        "fedge/v1/lab/job/../offer",
        "fedge/v1/lab\n/job/digits/offer",
        "fedge/v1/lab/job/digits\n/offer",
        f"fedge/v1/lab/blob/{SHA256}/01",
        f"fedge/v1/lab/blob/{SHA256}/-1",
        f"fedge/v1/lab/blob/{SHA256}/65536",
        f"fedge/v1/lab/blob/{SHA256}/\u0663",
        f"fedge/v1/lab/blob/{SHA256[:-1]}/0",
        f"fedge/v1/lab/blob/{SHA256.upper()}/0",
        f"fedge/v1/lab/device/{DEVICE}/up",
        f"fedge/v1/lab/device/{DEVICE}/up/",
        f"fedge/v1/lab/device/{DEVICE}/up/ready/now",
        f"fedge/v1/lab/device/{DEVICE}/up/ready/{SHA256}/0",
        f"fedge/v1/lab/device/{DEVICE[:-1]}/up/ready",
        f"fedge/v1/lab/device/{DEVICE}/sideways/ready",
        "fedge/v1/" + "a" * 10_000,
    ],
)
def test_a_topic_outside_the_tree_is_refused_by_name(topic):
    with pytest.raises(RefusedError) as refused:
        topics.parse(topic)
    assert refused.value.reason is Reason.WRONG_TOPIC


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fail_otherwise(text):
    with pytest.raises(RefusedError) as refused:
        topics.parse(text)
    assert refused.value.reason is Reason.WRONG_TOPIC


@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "A", "x" * 49, "a\n"])
def test_no_builder_lets_a_name_change_the_tree(bad):
    for build in (
        lambda: topics.offer(bad, "digits"),
        lambda: topics.offer("lab", bad),
        lambda: topics.up("lab", bad, "ready"),
        lambda: topics.up("lab", DEVICE, bad),
        lambda: topics.down("lab", DEVICE, bad),
        lambda: topics.blob("lab", bad, 0),
        lambda: topics.presence(bad, DEVICE),
        lambda: topics.shared(bad, "x"),
    ):
        with pytest.raises(RefusedError):
            build()
    with pytest.raises(RefusedError):
        topics.blob("lab", SHA256, topics.MAX_CHUNKS)
