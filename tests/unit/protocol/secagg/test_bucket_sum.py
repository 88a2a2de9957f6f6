import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_protocol.secagg.bucket_sum import BucketSum, verify_sum
from fedge_protocol.secagg.errors import AuditMismatch, BadInput, OutOfOrder, TooFewSurvivors, Unrecoverable
from fedge_protocol.secagg.member import UnmaskShare
from fedge_protocol.secagg.params import BucketParams, Suite
from fedge_protocol.secagg.recovery import Fault, FaultKind

N = 8
T = 6
ALL = frozenset(range(N))


def vectors_of(indices, dim, levels, seed=1):
    rng = np.random.default_rng(seed)
    return {i: rng.integers(-levels, levels + 1, dim).astype(np.int16).view(np.uint16) for i in sorted(indices)}


def true_sum(vectors):
    return np.sum([vector.view(np.int16) for vector in vectors.values()], axis=0, dtype=np.int64)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(2, 40), dim=st.integers(1, 300), suite=st.sampled_from(Suite), data=st.data())
def test_the_sum_is_exact_whoever_drops_out_and_when(make_bucket, size, dim, suite, data):
    threshold = BucketParams.for_size(size, suite).threshold
    order = data.draw(st.permutations(range(size)))
    shared = data.draw(st.integers(threshold, size), label="|U1|: the others drop out before E1 arrives")
    masked = data.draw(st.integers(threshold, shared), label="|U2|: the others drop out after E1")
    answering = data.draw(st.integers(threshold, masked), label="the others drop out after E2")
    bucket = make_bucket(size, suite=suite)
    bucket.share(order[:shared])
    vectors = vectors_of(order[:masked], dim, bucket.params.levels, seed=dim)
    out = bucket.run(vectors, order[:answering])
    assert np.array_equal(out.total.view(np.int16), true_sum(vectors))
    assert out.faults == ()
    assert out.revealed_self.keys() == vectors.keys()
    assert out.revealed_mask == {i: bucket.prekeys[i].mask_seed for i in order[masked:shared]}


@pytest.mark.parametrize("suite", list(Suite))
def test_vectors_longer_than_a_chunk_sum_exactly_and_extreme_values_do_not_wrap(make_bucket, suite):
    bucket = make_bucket(N, suite=suite)
    bucket.share(ALL)
    levels = bucket.params.levels
    for value in (levels, -levels):
        vectors = {i: np.full(70_001, value, dtype=np.int16).view(np.uint16) for i in ALL - {6}}
        out = bucket.run(vectors, range(T))
        assert (out.total.view(np.int16) == 7 * value).all()


def test_a_masked_vector_tells_nothing_that_can_be_seen(make_bucket):
    """Two very different inputs: both masked vectors look uniform, and unlike each other."""
    bucket = make_bucket(N)
    bucket.share(ALL)
    zeros, ones = np.zeros(60_000, np.uint16), np.full(60_000, 1000, np.uint16)
    for index, vector in ((0, zeros), (1, ones)):
        words = np.frombuffer(bucket.masked(index, vector), dtype="<u2")
        counts = np.bincount(words >> 8, minlength=256)
        assert abs(((counts - 60_000 / 256) ** 2 / (60_000 / 256)).sum() - 255) < 5 * (2 * 255) ** 0.5


def test_a_vector_masked_for_another_round_turns_the_sum_into_noise(make_bucket):
    bucket = make_bucket(N)
    other = make_bucket(N, context=b"d" * 32)
    bucket.share(ALL)
    other.share(ALL)
    vectors = vectors_of(ALL, 4096, bucket.params.levels)
    running = BucketSum(bucket.params, bucket.roster, bucket.context, bucket.model_hash, 4096)
    for index, vector in vectors.items():
        running.add(index, (other if index == 3 else bucket).masked(index, vector))
    out = running.finish(ALL, ALL, bucket.commitments(), bucket.answers(ALL, ALL))
    assert (out.total.view(np.int16) == true_sum(vectors)).mean() < 0.01


def test_answers_of_another_round_are_not_accepted_as_secrets(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL)
    vectors = vectors_of(ALL, 64, bucket.params.levels)
    wrong = BucketSum(bucket.params, bucket.roster, b"d" * 32, bucket.model_hash, 64)
    for index, vector in vectors.items():
        wrong.add(index, bucket.masked(index, vector))
    with pytest.raises(Unrecoverable, match="self mask of member 0"):
        wrong.finish(ALL, ALL, bucket.commitments(), bucket.answers(ALL, ALL))


def spoiled(answer, owners=None):
    return tuple(
        UnmaskShare(given.owner, given.of_mask_key, bytes([given.share[0] ^ 1]) + given.share[1:])
        if owners is None or given.owner in owners
        else given
        for given in answer
    )


@pytest.fixture
def wide(make_bucket):
    """Of 20 members, 19 shared and 18 sent vectors; 14 are needed."""
    bucket = make_bucket(20)
    bucket.share(range(19))
    vectors = vectors_of(range(18), 64, bucket.params.levels)
    return bucket, vectors, bucket.summed(vectors), bucket.answers(frozenset(vectors), vectors)


@pytest.mark.parametrize("liars", [{0}, {5}, {17}, {0, 1}, {2, 9, 13}, {0, 1, 2, 3}])
def test_wrong_shares_are_worked_around_and_their_holders_named(wide, liars):
    bucket, vectors, running, answers = wide
    answers = {holder: spoiled(answer) if holder in liars else answer for holder, answer in answers.items()}
    out = running.finish(bucket.u1, frozenset(vectors), bucket.commitments(), answers)
    assert np.array_equal(out.total.view(np.int16), true_sum(vectors))
    assert out.revealed_mask == {18: bucket.prekeys[18].mask_seed}
    named = {fault.holder for fault in out.faults}
    assert named <= liars
    assert named == liars or min(liars) >= bucket.params.threshold
    assert all(fault.kind is FaultKind.WRONG_SHARE for fault in out.faults)


def test_a_wrong_share_of_one_secret_is_named_with_its_owner(wide):
    bucket, vectors, running, answers = wide
    answers[4] = spoiled(answers[4], owners={18})
    out = running.finish(bucket.u1, frozenset(vectors), bucket.commitments(), answers)
    assert [(fault.holder, fault.owner) for fault in out.faults] == [(4, 18)]


def test_when_too_many_lie_the_member_that_cannot_be_unmasked_is_named_and_more_answers_may_help(wide):
    bucket, vectors, running, answers = wide
    u2 = frozenset(vectors)
    some = {holder: answers[holder] for holder in range(14)}
    some[3] = spoiled(some[3], owners={18})
    with pytest.raises(Unrecoverable, match="mask key of member 18") as caught:
        running.finish(bucket.u1, u2, bucket.commitments(), some)
    assert (caught.value.owner, caught.value.of_mask_key, caught.value.tries) == (18, True, 1)
    out = running.finish(bucket.u1, u2, bucket.commitments(), {**some, 14: answers[14]})
    assert np.array_equal(out.total.view(np.int16), true_sum(vectors))
    assert [(fault.holder, fault.owner) for fault in out.faults] == [(3, 18)]


def test_a_member_that_committed_to_another_secret_is_named(wide):
    bucket, vectors, running, answers = wide
    with pytest.raises(Unrecoverable, match="self mask of member 7") as caught:
        running.finish(bucket.u1, frozenset(vectors), {**bucket.commitments(), 7: bytes(32)}, answers)
    assert caught.value.owner == 7


def test_answers_that_are_not_what_was_asked_are_refused_by_holder(wide):
    bucket, vectors, running, answers = wide
    good = dict(answers)
    answers[0] = answers[0][:-1]
    answers[1] = (*answers[1], answers[1][0])
    answers[2] = (*answers[2][:-1], UnmaskShare(18, of_mask_key=False, share=answers[2][-1].share))
    answers[3] = (UnmaskShare(0, of_mask_key=False, share=b"\xff" * 20), *answers[3][1:])
    answers[18] = good[0]
    out = running.finish(bucket.u1, frozenset(vectors), bucket.commitments(), answers)
    assert np.array_equal(out.total.view(np.int16), true_sum(vectors))
    assert {(fault.kind, fault.holder, fault.owner) for fault in out.faults} == {
        (FaultKind.MALFORMED_ANSWER, holder, None) for holder in (0, 1, 2, 3, 18)
    }
    assert all(isinstance(fault, Fault) and fault.detail for fault in out.faults)
    answers[4] = ()
    with pytest.raises(TooFewSurvivors, match="13 members, the threshold is 14"):
        running.finish(bucket.u1, frozenset(vectors), bucket.commitments(), answers)


def test_a_vector_of_a_stranger_or_of_another_length_or_a_second_one_changes_nothing(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL)
    vectors = vectors_of(ALL, 32, bucket.params.levels)
    running = bucket.summed(vectors)
    for index, data, names in [(0, bytes(64), "already"), (N, bytes(64), f"member {N}"), (-1, bytes(64), "member -1")]:
        with pytest.raises(BadInput, match=names):
            running.add(index, data)
    fresh = BucketSum(bucket.params, bucket.roster, bucket.context, bucket.model_hash, 32)
    for length in (0, 62, 63, 66):
        with pytest.raises(BadInput, match=f"{length} bytes instead of 64"):
            fresh.add(0, bytes(length))
    assert fresh.added == frozenset()
    out = running.finish(ALL, ALL, bucket.commitments(), bucket.answers(ALL, ALL))
    assert np.array_equal(out.total.view(np.int16), true_sum(vectors))


def test_sets_that_do_not_fit_together_are_refused(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL)
    vectors = vectors_of(ALL - {7}, 32, bucket.params.levels)
    running = bucket.summed(vectors)
    u2 = frozenset(vectors)
    with pytest.raises(BadInput, match=r"\[0\], who are not in U1"):
        running.finish(ALL - {0}, u2, bucket.commitments(), {})
    with pytest.raises(OutOfOrder):
        running.finish(ALL, u2 - {0}, bucket.commitments(), {})
    with pytest.raises(OutOfOrder):
        running.finish(ALL, ALL, bucket.commitments(), {})
    with pytest.raises(BadInput, match=r"commitments of members \[0"):
        running.finish(ALL, u2, {}, {})
    with pytest.raises(TooFewSurvivors):
        running.finish(ALL, u2, bucket.commitments(), {})
    few = bucket.summed(vectors_of(range(T - 1), 32, bucket.params.levels))
    with pytest.raises(TooFewSurvivors, match="U2"):
        few.finish(ALL, frozenset(range(T - 1)), bucket.commitments(), {})
    with pytest.raises(BadInput, match="0 coordinates"):
        BucketSum(bucket.params, bucket.roster, bucket.context, bucket.model_hash, 0)


@pytest.fixture
def record(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL)
    vectors = vectors_of(ALL - {2}, 96, bucket.params.levels)
    out = bucket.run(vectors, sorted(vectors))
    published = {
        "vectors": {i: bucket.masked(i, vector) for i, vector in vectors.items()},
        "commitments": bucket.commitments(),
        "revealed_self": dict(out.revealed_self),
        "revealed_mask": dict(out.revealed_mask),
    }
    return (bucket.params, bucket.roster, bucket.context, bucket.model_hash), published, out.total


def test_anyone_can_recompute_the_sum_from_what_is_published(record):
    bucket, published, total = record
    assert np.array_equal(verify_sum(*bucket, **published), total)


def test_a_record_with_one_word_changed_gives_another_sum(record):
    bucket, published, total = record
    vector = published["vectors"][0]
    published["vectors"][0] = bytes([vector[0] ^ 1]) + vector[1:]
    assert (verify_sum(*bucket, **published) != total).sum() == 1


@pytest.mark.parametrize(
    ("what", "key", "value", "names"),
    [
        ("revealed_self", 0, bytes(16), "self mask of member 0"),
        ("revealed_self", 0, bytes(15), "15 bytes"),
        ("revealed_mask", 2, bytes(16), "mask key of member 2"),
        ("commitments", 0, bytes(32), "self mask of member 0"),
        ("commitments", 0, None, "self mask of member 0"),
        ("revealed_self", 0, None, "exactly one"),
        ("revealed_self", 2, bytes(16), "exactly one"),
        ("revealed_mask", 0, bytes(16), "exactly one"),
        ("vectors", 0, None, "exactly one"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused(record, what, key, value, names):
    bucket, published, _ = record
    if value is None:
        del published[what][key]
    else:
        published[what][key] = value
    with pytest.raises(AuditMismatch, match=names):
        verify_sum(*bucket, **published)


def test_a_record_of_too_few_or_uneven_vectors_is_refused(record):
    bucket, published, _ = record
    with pytest.raises(BadInput, match="one length"):
        verify_sum(*bucket, **{**published, "vectors": {**published["vectors"], 0: bytes(10)}})
    with pytest.raises(BadInput, match="member 8"):
        verify_sum(*bucket, **{**published, "revealed_mask": {8: bytes(16)}})
    few = {i: published["vectors"][i] for i in (0, 1, 3)}
    with pytest.raises(AuditMismatch, match="3 vectors"):
        verify_sum(*bucket, **{**published, "vectors": few})
