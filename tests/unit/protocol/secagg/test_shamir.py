import os
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.secagg.errors import BadInput, TooFewSurvivors
from fedge_protocol.secagg.shamir import PRIME, combine, interpolate, split
from fedge_protocol.secagg.shamir_batch import combine_many

SECRET = bytes(range(200, 216))


def plain_secret(shares_by_x: dict[int, bytes]) -> int:
    """Lagrange at zero as in a textbook, limb by limb."""
    number = 0
    for limb in range(5):
        value = 0
        for x, share in shares_by_x.items():
            term = int.from_bytes(share[4 * limb : 4 * limb + 4], "little")
            for other in shares_by_x:
                if other != x:
                    term = term * -other * pow(x - other, PRIME - 2, PRIME) % PRIME
            value = (value + term) % PRIME
        number |= value << (27 * limb)
    return number


@given(st.binary(min_size=16, max_size=16), st.integers(1, 128), st.data())
def test_any_threshold_of_shares_gives_the_secret_and_the_textbook_agrees(secret, holders, data):
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold=threshold, holders=holders, random=os.urandom)
    assert all(len(share) == 20 for share in shares)
    chosen = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    given_shares = {x: shares[x - 1] for x in chosen}
    assert combine(given_shares, threshold) == secret
    assert combine_many({x: [share] for x, share in given_shares.items()}, threshold) == [secret]
    if threshold <= 24:
        assert plain_secret(given_shares) == int.from_bytes(secret, "little")


def test_every_choice_of_shares_gives_the_same_secret():
    shares = split(SECRET, threshold=4, holders=7, random=os.urandom)
    for chosen in combinations(range(1, 8), 4):
        assert combine({x: shares[x - 1] for x in chosen}, 4) == SECRET


def test_one_share_less_than_the_threshold_says_nothing():
    """With t - 1 shares, every secret is still possible: each completes to a polynomial of the right degree."""
    shares = split(SECRET, threshold=3, holders=3, random=os.urandom)
    for other in (bytes(16), b"\xff" * 16):
        forged = split(other, threshold=1, holders=1, random=os.urandom)[0]  # the constant polynomial: its value at 0
        third = interpolate({0: forged, 1: shares[0], 2: shares[1]}, 3)
        assert combine({1: shares[0], 2: shares[1], 3: third}, 3) == other


def test_shares_of_the_same_secret_differ_from_call_to_call_and_look_uniform():
    values = [
        int.from_bytes(split(SECRET, threshold=2, holders=2, random=os.urandom)[0][:4], "little") for _ in range(400)
    ]
    assert len(set(values)) > 395
    assert 0.4 < sum(value > PRIME // 2 for value in values) / 400 < 0.6


def test_coefficients_that_equal_the_prime_are_drawn_again():
    asked = []

    def random(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * 4 + bytes(count - 4) if len(asked) == 1 else b"\x05" + bytes(count - 1)

    share = split(bytes(16), threshold=2, holders=2, random=random)[0]
    assert asked == [20, 4]
    words = [int.from_bytes(share[i : i + 4], "little") for i in range(0, 20, 4)]
    assert words == [0, 0, 0, 0, 5]


def test_many_secrets_of_the_same_holders_are_found_at_once_and_a_wrong_share_spoils_only_its_own():
    secrets = [os.urandom(16) for _ in range(40)]
    dealt = [split(secret, threshold=22, holders=32, random=os.urandom) for secret in secrets]
    rows = {x: [shares[x - 1] for shares in dealt] for x in range(3, 33)}
    assert combine_many(rows, 22) == secrets
    rows[5][7] = bytes(20)
    found = combine_many(rows, 22)
    assert found[7] != secrets[7]
    assert found[:7] + found[8:] == secrets[:7] + secrets[8:]


def test_too_few_shares_are_refused():
    shares = split(SECRET, threshold=3, holders=5, random=os.urandom)
    with pytest.raises(TooFewSurvivors, match="2 members, the threshold is 3"):
        combine({1: shares[0], 2: shares[1]}, 3)
    with pytest.raises(TooFewSurvivors):
        combine_many({1: [shares[0]], 2: [shares[1]]}, 3)
    with pytest.raises(TooFewSurvivors):
        combine({}, 0)


@pytest.mark.parametrize(
    ("secret", "threshold", "holders"), [(15, 1, 2), (17, 1, 2), (16, 0, 2), (16, 3, 2), (16, 2, 129)]
)
def test_sharing_out_of_bounds_is_refused(secret, threshold, holders):
    with pytest.raises(BadInput):
        split(bytes(secret), threshold=threshold, holders=holders, random=os.urandom)


@pytest.mark.parametrize("bad", [b"", bytes(19), bytes(21), b"\xff\xff\xff\x7f" + bytes(16), b"\xff" * 20])
def test_a_share_that_is_none_is_refused(bad):
    good = split(SECRET, threshold=2, holders=2, random=os.urandom)[0]
    with pytest.raises(BadInput, match="share"):
        combine({1: good, 2: bad}, 2)


@pytest.mark.parametrize("x", [-1, 0, 129])
def test_an_x_out_of_bounds_is_refused(x):
    shares = split(SECRET, threshold=2, holders=2, random=os.urandom)
    with pytest.raises(BadInput, match="x is not within"):
        combine({1: shares[0], x: shares[1]}, 2)
    with pytest.raises(BadInput, match="x is not within"):
        combine_many({1: [shares[0]], x: [shares[1]]}, 2)


def test_shares_that_do_not_belong_together_are_seen_when_they_give_no_16_bytes():
    with pytest.raises(BadInput, match="do not belong together"):
        combine({1: b"\xfe\xff\xff\x7f" * 5}, 1)
    with pytest.raises(BadInput, match="do not belong together"):
        combine({1: bytes(16) + (2**20).to_bytes(4, "little")}, 1)
    assert combine_many({1: [b"\xfe\xff\xff\x7f" * 5]}, 1) == [None]


def test_holders_that_answer_for_different_numbers_of_secrets_are_refused_in_a_batch():
    shares = split(SECRET, threshold=2, holders=2, random=os.urandom)
    with pytest.raises(BadInput):
        combine_many({1: [shares[0]], 2: [shares[1], shares[1]]}, 2)
    with pytest.raises(BadInput):
        combine_many({1: [shares[0]], 2: [shares[1][:19]]}, 2)
