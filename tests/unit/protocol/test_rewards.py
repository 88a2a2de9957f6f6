"""Money: every unit is accounted for, and nobody gains by order, splitting or ties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge_protocol.rewards import RewardError, fold, participation_v1

ADDRESSES = st.binary(min_size=20, max_size=20)
WEIGHTS = st.dictionaries(ADDRESSES, st.integers(0, 2**64 - 1), max_size=30)
AMOUNTS = st.dictionaries(ADDRESSES, st.integers(0, 2**128), max_size=8)
A, B, C = (bytes(19) + bytes([last]) for last in (1, 2, 3))


@given(st.integers(0, 2**128 - 1), WEIGHTS)
def test_the_shares_sum_to_the_budget_exactly_and_each_is_within_one_unit_of_its_quota(budget, weights):
    shares = participation_v1(budget, weights)
    total = sum(weights.values())
    if not total:
        assert shares == {}
        return
    assert sum(shares.values()) == budget
    assert list(shares) == sorted(weights)
    for address, share in shares.items():
        floor, remainder = divmod(budget * weights[address], total)
        assert share in ({floor, floor + 1} if remainder else {floor})


@given(st.integers(0, 2**64), WEIGHTS, st.randoms())
def test_the_order_in_which_devices_are_listed_does_not_matter(budget, weights, random):
    shuffled = list(weights.items())
    random.shuffle(shuffled)
    assert participation_v1(budget, dict(shuffled)) == participation_v1(budget, weights)


@given(st.integers(0, 2**64), WEIGHTS)
def test_a_heavier_device_never_earns_less(budget, weights):
    shares = participation_v1(budget, weights)
    by_weight = sorted(shares, key=lambda address: (weights[address], shares[address]))
    assert [shares[address] for address in by_weight] == sorted(shares.values())


def test_left_over_units_go_to_the_largest_remainders_then_to_the_smallest_address():
    assert participation_v1(10, {C: 1, A: 1, B: 1}) == {A: 4, B: 3, C: 3}
    assert participation_v1(11, {C: 1, A: 1, B: 1}) == {A: 4, B: 4, C: 3}
    assert participation_v1(10, {A: 1, B: 2, C: 4}) == {A: 1, B: 3, C: 6}


def test_a_device_without_weight_earns_nothing():
    assert participation_v1(7, {A: 0, B: 3}) == {A: 0, B: 7}


def test_a_round_without_weight_leaves_the_budget_in_the_pool():
    assert participation_v1(7, {}) == {}
    assert participation_v1(7, {A: 0}) == {}


@pytest.mark.parametrize(("budget", "weights"), [(-1, {A: 1}), (1, {A: 2, B: -1})])
def test_negative_money_or_weight_is_refused(budget, weights):
    with pytest.raises(RewardError, match="-1"):
        participation_v1(budget, weights)


@given(AMOUNTS, st.lists(AMOUNTS, max_size=6))
def test_folding_loses_no_unit_and_no_account_ever_falls(before, rounds):
    after = fold(before, rounds)
    assert sum(after.values()) == sum(before.values()) + sum(sum(amounts.values()) for amounts in rounds)
    assert all(after.get(account, 0) >= amount for account, amount in before.items())
    assert list(after) == sorted(after)
    assert all(after.values())


@given(st.lists(AMOUNTS, max_size=6), st.integers(0, 6))
def test_where_the_epochs_are_cut_does_not_change_what_was_earned(rounds, cut):
    assert fold(fold({}, rounds[:cut]), rounds[cut:]) == fold({}, rounds)


def test_a_negative_amount_cannot_be_folded():
    with pytest.raises(RewardError, match="-5"):
        fold({A: 10}, [{A: -5}])
