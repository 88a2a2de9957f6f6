import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge_coordinator.store import Store
from fedge_coordinator.store.errors import PrekeyUnknownError, PrekeyUsedError
from fedge_coordinator.store.journal import RoundKey
from fedge_coordinator.store.prekeys import MAX_FRESH_PER_DEVICE, Added, PrekeyCounts, PrekeyState

DEVICES = itertools.count()
KEY, NEXT = RoundKey("digits", 1, 0), RoundKey("digits", 1, 1)


def test_published_prekeys_are_fresh_in_order(store: Store):
    assert store.prekeys.add("d", [(2, b"two"), (1, b"one")]) == Added((2, 1), (), (), ())
    assert [(each.prekey_id, each.statement) for each in store.prekeys.fresh("d")] == [(1, b"one"), (2, b"two")]
    assert store.prekeys.fresh("other") == []


def test_a_burned_prekey_is_never_fresh_again(store: Store):
    store.prekeys.add("d", [(1, b"one")])
    store.prekeys.reserve(KEY, [("d", 1)])
    assert store.prekeys.burn_round(KEY) == 1
    assert store.prekeys.add("d", [(1, b"one")]) == Added((), (1,), (), ())
    assert store.prekeys.add("d", [(1, b"other")]) == Added((), (), (1,), ())
    assert store.prekeys.counts("d") == PrekeyCounts(fresh=0, reserved=0, burned=1)
    with pytest.raises(PrekeyUsedError):
        store.prekeys.reserve(NEXT, [("d", 1)])


def test_a_prekey_burned_before_it_was_published_stays_burned(store: Store):
    store.prekeys.burn([("d", 5)])
    assert store.prekeys.add("d", [(5, b"five")]).fresh == ()
    found = store.prekeys.get("d", 5)
    assert found is not None
    assert found.state is PrekeyState.BURNED


def test_a_prekey_belongs_to_one_round_attempt(store: Store):
    store.prekeys.add("d", [(1, b"one")])
    store.prekeys.reserve(KEY, [("d", 1)])
    store.prekeys.reserve(KEY, [("d", 1)])
    with pytest.raises(PrekeyUsedError, match="reserved"):
        store.prekeys.reserve(NEXT, [("d", 1)])
    found = store.prekeys.get("d", 1)
    assert found is not None
    assert found.round == KEY


def test_a_reservation_is_all_or_nothing(store: Store):
    store.prekeys.add("d", [(1, b"one")])
    with pytest.raises(PrekeyUnknownError, match="no prekey 9"):
        store.prekeys.reserve(KEY, [("d", 1), ("d", 9)])
    assert store.prekeys.counts("d") == PrekeyCounts(fresh=1, reserved=0, burned=0)


def test_a_device_cannot_fill_the_disk_with_prekeys(store: Store):
    added = store.prekeys.add("d", [(number, b"x") for number in range(MAX_FRESH_PER_DEVICE + 2)])
    assert len(added.fresh) == MAX_FRESH_PER_DEVICE
    assert added.surplus == (MAX_FRESH_PER_DEVICE, MAX_FRESH_PER_DEVICE + 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "reserve", "burn"]), st.integers(0, 3)), max_size=20))
def test_no_order_of_calls_uses_a_prekey_twice(store: Store, calls: list[tuple[str, int]]):
    device = f"{next(DEVICES):032x}"
    burned: set[int] = set()
    for number, (call, prekey_id) in enumerate(calls):
        if call == "add":
            assert prekey_id not in burned or not store.prekeys.add(device, [(prekey_id, b"s")]).fresh
        elif call == "burn":
            store.prekeys.burn([(device, prekey_id)])
            burned.add(prekey_id)
        else:
            try:
                store.prekeys.reserve(RoundKey("digits", number, 0), [(device, prekey_id)])
            except (PrekeyUsedError, PrekeyUnknownError):
                continue
            assert prekey_id not in burned
    assert all(_state(store, device, prekey_id) is PrekeyState.BURNED for prekey_id in burned)


def _state(store: Store, device: str, prekey_id: int) -> PrekeyState | None:
    found = store.prekeys.get(device, prekey_id)
    return None if found is None else found.state
