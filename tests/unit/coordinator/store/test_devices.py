from typing import Protocol

from fedge_coordinator.store import Store
from fedge_coordinator.store.devices import LastRefusal


class Clock(Protocol):
    now_ms: int


def test_a_birth_is_seen_and_a_last_will_is_not(store: Store, clock: Clock):
    store.devices.presence("d", online=True, version="0.1", missing_features=5)
    clock.now_ms = 2_000
    store.devices.presence("d", online=False, version="0.1", missing_features=5)
    found = store.devices.get("d")
    assert found is not None
    assert (found.online, found.last_seen_ms, found.missing_features, found.version) == (False, 1_000, 5, "0.1")


def test_every_valid_message_counts_as_seen(store: Store, clock: Clock):
    store.devices.seen("d")
    clock.now_ms = 3_000
    store.devices.seen("d")
    found = store.devices.get("d")
    assert found is not None
    assert (found.first_seen_ms, found.last_seen_ms) == (1_000, 3_000)


def test_the_last_refusal_is_kept_and_bounded(store: Store):
    store.devices.refused("d", "not-admitted", "x" * 300)
    store.devices.refused("d", "not-admitted", "until 07:00")
    found = store.devices.get("d")
    assert found is not None
    assert found.refusal == LastRefusal("not-admitted", "until 07:00", 1_000)


def test_revoked_devices_are_listed(store: Store):
    store.devices.set_revoked("d", revoked=True)
    store.devices.seen("e")
    assert store.devices.revoked() == {"d"}
    store.devices.set_revoked("d", revoked=False)
    assert store.devices.revoked() == frozenset()


def test_after_a_start_nobody_is_online_until_a_birth_tells(store: Store):
    store.devices.presence("d", online=True, version="0.1", missing_features=0)
    store.devices.set_state("d", "training")
    store.devices.all_offline()
    (found,) = store.devices.all()
    assert (found.online, found.state) == (False, "training")
