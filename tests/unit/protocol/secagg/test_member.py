from dataclasses import replace

import pytest

from fedge_protocol.secagg.errors import (
    BadInput,
    BadPeerKey,
    BadRoster,
    BadShare,
    Equivocation,
    OutOfOrder,
    OwnKeyAltered,
    TooFewSurvivors,
)
from fedge_protocol.secagg.member import SEALED_BYTES, Member
from fedge_protocol.secagg.params import BucketParams
from fedge_protocol.secagg.shamir import combine
from fedge_protocol.secagg.x25519 import public_of

N = 8
T = 6
ALL = frozenset(range(N))


@pytest.fixture
def bucket(make_bucket):
    return make_bucket(N)


@pytest.fixture
def shared(bucket):
    bucket.share(ALL)
    return bucket


def join(bucket, seeded, **changes):
    arguments = {
        "params": bucket.params,
        "roster": bucket.roster,
        "own": bucket.roster[2].device,
        "prekey": bucket.prekeys[2],
        "context": bucket.context,
        "model_hash": bucket.model_hash,
        "random": seeded("join"),
    }
    return Member(**{**arguments, **changes})


def swapped(roster, index, **changes):
    return (*roster[:index], replace(roster[index], **changes), *roster[index + 1 :])


def test_shares_are_one_sealed_text_of_56_bytes_for_each_peer_and_the_same_when_asked_again(bucket):
    shares = bucket.members[2].shares()
    assert len(shares.sealed) == N - 1
    assert {len(sealed) for sealed in shares.sealed} == {SEALED_BYTES} == {56}
    assert len(shares.self_commitment) == 32
    assert bucket.members[2].shares() is shares


def test_the_shares_that_peers_hold_give_the_secrets_of_their_owner(shared):
    u2 = ALL - {5}
    answers = shared.answers(u2, sorted(u2))
    of_5 = {holder + 1: given[5].share for holder, given in answers.items()}
    assert all(given[5].of_mask_key for given in answers.values())
    assert combine(of_5, T) == shared.prekeys[5].mask_seed
    assert len({combine(dict(list(of_5.items())[start:]), T) for start in range(2)}) == 1


def test_two_members_have_their_pairwise_seed_in_common_with_opposite_signs(shared):
    for one in range(N):
        for other in range(one + 1, N):
            sign, seed = shared.seeds[one].pairs[other - 1]
            opposite, same = shared.seeds[other].pairs[one]
            assert (sign, opposite) == (-1, 1)
            assert seed == same
    every = [seed for seeds in shared.seeds.values() for _, seed in seeds.pairs]
    assert len(set(every)) == N * (N - 1) // 2


def test_for_each_member_of_u1_exactly_one_share_is_given_and_it_is_the_right_one(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL - {7})
    u2 = ALL - {7, 3}
    answer = bucket.members[0].unmask(u2)
    assert [given.owner for given in answer] == [0, 1, 2, 3, 4, 5, 6]
    assert [given.of_mask_key for given in answer] == [False, False, False, True, False, False, False]
    assert all(len(given.share) == 20 for given in answer)


def test_nobody_ever_gets_both_shares_of_a_member(shared):
    member = shared.members[0]
    first = member.unmask(ALL - {3})
    assert member.unmask(ALL - {3}) is first
    with pytest.raises(Equivocation):
        member.unmask(ALL)
    with pytest.raises(Equivocation):
        member.unmask(ALL - {4})
    assert member.unmask(ALL - {3}) is first


def test_a_refused_question_does_not_use_up_the_answer(shared):
    member = shared.members[0]
    with pytest.raises(TooFewSurvivors, match="U2"):
        member.unmask(frozenset(range(T - 1)))
    assert len(member.unmask(ALL)) == N


def test_a_member_built_again_from_the_same_entropy_gives_the_same_bytes(bucket, make_bucket):
    bucket.share(ALL)
    again = make_bucket(N)
    again.share(ALL)
    assert again.shares == bucket.shares
    assert again.seeds == bucket.seeds
    assert again.members[4].unmask(ALL) == bucket.members[4].unmask(ALL)


def test_entropy_is_asked_for_once_and_other_entropy_gives_other_secrets(bucket, seeded):
    asked = []

    def random(count):
        asked.append(count)
        return bytes(count)

    member = join(bucket, seeded, random=random)
    zeros = member.shares()
    assert asked == [32]
    assert zeros.self_commitment != bucket.members[2].shares().self_commitment
    with pytest.raises(BadInput, match="31 bytes"):
        join(bucket, seeded, random=lambda count: bytes(count - 1))


def test_a_roster_with_other_keys_for_this_device_is_refused(bucket, seeded):
    for changes in ({"mask_public": public_of(b"x" * 32)}, {"channel_public": public_of(b"x" * 32)}):
        with pytest.raises(OwnKeyAltered, match="prekey 2"):
            join(bucket, seeded, roster=swapped(bucket.roster, 2, **changes))


def test_a_roster_that_is_ambiguous_or_lacks_this_device_is_refused(bucket, seeded):
    roster = bucket.roster
    for wrong, names in [
        (roster[:-1], "7 members"),
        ((*roster[:-2], roster[-1], roster[-2]), "not sorted"),
        (swapped(roster, 3, device=roster[4].device), "not sorted"),
        (swapped(roster, 3, mask_public=bytes(31)), "32 bytes"),
        (swapped(roster, 3, mask_public=roster[4].mask_public), "twice"),
        (swapped(roster, 3, channel_public=roster[3].mask_public), "twice"),
    ]:
        with pytest.raises(BadRoster, match=names):
            join(bucket, seeded, roster=wrong)
    with pytest.raises(BadRoster, match="not in the roster"):
        join(bucket, seeded, own="f" * 32)


def test_context_and_model_hash_have_32_bytes(bucket, seeded):
    with pytest.raises(BadInput):
        join(bucket, seeded, context=b"c" * 31)
    with pytest.raises(BadInput):
        join(bucket, seeded, model_hash=b"")


def test_a_peer_whose_key_has_low_order_is_named(bucket, seeded):
    member = join(bucket, seeded, roster=swapped(bucket.roster, 6, channel_public=bytes(32)))
    with pytest.raises(BadPeerKey, match="channel key of member 6"):
        member.shares()


def test_a_low_order_mask_key_is_named_before_anything_is_masked(make_bucket, seeded):
    bucket = make_bucket(3)
    roster = swapped(bucket.roster, 2, mask_public=bytes(32))
    ends = [
        Member(
            bucket.params,
            roster,
            roster[i].device,
            bucket.prekeys[i],
            bucket.context,
            bucket.model_hash,
            seeded(f"low {i}"),
        )
        for i in range(2)
    ]
    one = ends[0]
    one.shares()
    from_1 = ends[1].shares().sealed[0]
    # member 2 cannot be honest here, but it can seal honestly
    forger = make_bucket(3).members[2]
    forger._binding, forger._roster = one._binding, one._roster
    from_2 = forger.shares().sealed[0]
    with pytest.raises(BadPeerKey, match="mask key of member 2"):
        one.mask_seeds(frozenset({0, 1, 2}), {1: from_1, 2: from_2})


def test_steps_are_refused_out_of_order(bucket):
    with pytest.raises(OutOfOrder):
        bucket.members[0].mask_seeds(ALL, {})
    bucket.members[0].shares()
    with pytest.raises(OutOfOrder):
        bucket.members[0].unmask(ALL)


def test_masking_for_a_second_u1_is_refused_and_for_the_same_repeated(shared):
    assert shared.members[0].mask_seeds(ALL, {}) is shared.seeds[0]
    with pytest.raises(Equivocation):
        shared.members[0].mask_seeds(ALL - {7}, {})


def test_a_u1_below_the_threshold_or_without_this_device_or_with_a_stranger_is_refused(bucket):
    for member in bucket.members:
        member.shares()
    first = bucket.members[0]
    with pytest.raises(TooFewSurvivors, match="5 members, the threshold is 6"):
        first.mask_seeds(frozenset(range(5)), {})
    with pytest.raises(BadInput, match="lacks this device"):
        first.mask_seeds(ALL - {0}, {})
    for stranger in (N, -1):
        with pytest.raises(BadInput, match=f"member {stranger}"):
            first.mask_seeds(ALL | {stranger}, {})
    with pytest.raises(BadInput, match="exactly"):
        first.mask_seeds(ALL, {})


def test_u2_must_be_within_u1_and_hold_this_device(make_bucket):
    bucket = make_bucket(N)
    bucket.share(ALL - {7})
    with pytest.raises(BadInput, match=r"\[7\]"):
        bucket.members[0].unmask(ALL)
    with pytest.raises(BadInput, match="lacks this device"):
        bucket.members[0].unmask(ALL - {0, 7})


@pytest.mark.parametrize("change", ["flipped", "short", "from another", "to another", "another round", "another model"])
def test_a_sealed_share_that_does_not_open_names_its_sender_and_keeps_the_evidence(make_bucket, seeded, change):
    bucket = make_bucket(N)
    bucket.shares = {i: bucket.members[i].shares() for i in ALL}
    bucket.u1 = ALL
    sealed = bucket.sealed_for(0)
    if change == "flipped":
        sealed[3] = bytes([sealed[3][0] ^ 1]) + sealed[3][1:]
    elif change == "short":
        sealed[3] = sealed[3][:-1]
    elif change == "from another":
        sealed[3] = sealed[4]
    elif change == "to another":
        sealed[3] = bucket.shares[3].sealed[1]
    elif change == "another round":
        sealed[3] = make_bucket(N, context=b"d" * 32).members[3].shares().sealed[0]
    else:
        other = join(
            bucket, seeded, own=bucket.roster[3].device, prekey=bucket.prekeys[3], model_hash=b"other model hash" * 2
        )
        sealed[3] = other.shares().sealed[0]
    with pytest.raises(BadShare, match="member 3") as caught:
        bucket.members[0].mask_seeds(ALL, sealed)
    assert (caught.value.index, caught.value.evidence) == (3, sealed[3])
    bucket.members[0].mask_seeds(ALL, bucket.sealed_for(0))  # nothing was changed by the refusal


def test_a_sealed_text_that_opens_to_no_share_is_refused(make_bucket):
    bucket = make_bucket(N)
    bucket.members[3]._b_shares[0] = b"\xff" * 20
    bucket.shares = {i: bucket.members[i].shares() for i in ALL}
    bucket.u1 = ALL
    with pytest.raises(BadShare, match="no element"):
        bucket.members[0].mask_seeds(ALL, bucket.sealed_for(0))


def test_another_threshold_is_another_binding(make_bucket, seeded):
    bucket = make_bucket(N)
    stricter = BucketParams(N, T + 1, bucket.params.levels, bucket.params.suite)
    other = join(bucket, seeded, own=bucket.roster[3].device, prekey=bucket.prekeys[3], params=stricter)
    bucket.shares = {i: bucket.members[i].shares() for i in ALL}
    bucket.u1 = ALL
    with pytest.raises(BadShare):
        bucket.members[0].mask_seeds(ALL, {**bucket.sealed_for(0), 3: other.shares().sealed[0]})


def test_no_representation_shows_a_secret(shared):
    seeds = shared.seeds[0]
    answer = shared.members[0].unmask(ALL)
    for shown in (repr(seeds), repr(answer), repr(shared.members[0])):
        assert repr(seeds.self_seed) not in shown
        assert repr(answer[0].share) not in shown
