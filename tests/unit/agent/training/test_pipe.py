import contextlib
import struct

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_agent.training.failure import Reason
from fedge_agent.training.pipe import (
    MAX_BODY_BYTES,
    Failed,
    Mask,
    Masked,
    Pair,
    PipeError,
    Progress,
    Quit,
    Source,
    Train,
    Trained,
    body_length,
    decode_reply,
    decode_request,
    frame,
)

seeds = st.binary(min_size=32, max_size=32)
counts = st.integers(0, 2**53)
finite = st.floats(allow_nan=False)
positive = st.floats(1e-6, 1e9)
texts = st.text(min_size=1, max_size=50)
requests = st.one_of(
    st.builds(
        Train,
        graph_path=texts,
        weights_path=texts,
        source=st.builds(Source, kind=st.just("directory"), name=texts, path=texts),
        epochs=st.integers(1, 1000),
        learning_rate=positive,
        momentum=st.floats(0, 0.999),
        proximal_mu=st.floats(0, 1e6),
        shuffle_seed=st.integers(0, 2**63 - 1),
        clip_norm=positive,
        max_samples=st.integers(1, 10**9),
    ),
    st.builds(
        Mask,
        pairs=st.lists(st.builds(Pair, sign=st.sampled_from([1, -1]), seed=seeds), max_size=5).map(tuple),
        self_seed=seeds,
        suite=st.integers(0, 255),
        levels=st.integers(1, 32767),
        coordinate_range=positive,
        rotation_seed=seeds,
        weight=st.integers(1, 65536),
        weight_max=st.integers(1, 65536),
        out_path=texts,
    ),
    st.just(Quit()),
)
replies = st.one_of(
    st.builds(Progress, epoch=counts, epochs=counts, loss=finite),
    st.builds(
        Trained,
        samples=counts,
        loss_first=finite,
        loss_last=finite,
        update_norm=finite,
        clipped=st.booleans(),
        dim=counts,
        cpu_seconds=finite,
        step_cpu_seconds=finite,
        confinement=st.dictionaries(texts, texts, max_size=3),
    ),
    st.builds(Masked, sha256=seeds, size=counts, cpu_seconds=finite),
    st.builds(Failed, reason=st.sampled_from(Reason), detail=texts),
)


def body(message):
    framed = frame(message)
    assert body_length(framed[:4]) == len(framed) - 4
    return framed[4:]


@given(requests)
def test_every_request_survives_the_pipe(request):
    assert decode_request(body(request)) == request


@given(replies)
def test_every_reply_survives_the_pipe(reply):
    assert decode_reply(body(reply)) == reply


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_a_message(content):
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(PipeError):
            assert isinstance(decode(content), msgspec.Struct)


TRAIN = {
    "type": "train",
    "graph_path": "g",
    "weights_path": "w",
    "source": {"kind": "directory", "name": "n", "path": "p"},
    "epochs": 1,
    "learning_rate": 0.1,
    "momentum": 0.0,
    "proximal_mu": 0.0,
    "shuffle_seed": 1,
    "clip_norm": 1.0,
    "max_samples": 10,
}


def test_the_plain_form_of_a_request_is_accepted():
    assert isinstance(decode_request(cbor2.dumps(TRAIN)), Train)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": 1001},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"clip_norm": float("nan")},
        {"clip_norm": -1.0},
        {"momentum": 1.0},
        {"proximal_mu": float("nan")},
        {"shuffle_seed": -1},
        {"max_samples": 0},
        {"graph_path": ""},
        {"graph_path": b"bytes"},
        {"source": {"kind": "../x", "name": "n", "path": "p"}},
        {"surprise": 1},
        {"type": "progress"},
    ],
)
def test_a_value_out_of_bounds_is_refused(change):
    with pytest.raises(PipeError):
        decode_request(cbor2.dumps(TRAIN | change))


def test_a_reply_is_no_request():
    with pytest.raises(PipeError):
        decode_request(body(Progress(epoch=1, epochs=2, loss=0.5)))


def test_a_seed_of_the_wrong_length_is_refused():
    mask = {
        "type": "mask", "pairs": [], "self_seed": bytes(31), "suite": 1, "levels": 10, "coordinate_range": 1.0,
        "rotation_seed": bytes(32), "weight": 1, "weight_max": 1, "out_path": "o",
    }  # fmt: skip
    with pytest.raises(PipeError, match="self_seed"):
        decode_request(cbor2.dumps(mask))


def test_too_long_a_frame_is_neither_sent_nor_taken():
    with pytest.raises(PipeError, match="at most 1048576"):
        body_length(struct.pack(">I", MAX_BODY_BYTES + 1))
    with pytest.raises(PipeError, match="at most 1048576"):
        frame(Failed(Reason.CRASHED, "x" * (MAX_BODY_BYTES + 1)))


def test_a_header_that_is_cut_off_is_refused():
    with pytest.raises(PipeError, match="inside a header"):
        body_length(b"\0\0")


def test_no_representation_of_a_mask_shows_its_seeds():
    secret = b"S" * 32
    mask = Mask(
        pairs=(Pair(sign=1, seed=secret),), self_seed=secret, suite=1, levels=9, coordinate_range=1.0,
        rotation_seed=secret, weight=1, weight_max=1, out_path="o",
    )  # fmt: skip
    assert "SSSS" not in repr(mask) + str(mask) + repr(mask.pairs[0])
