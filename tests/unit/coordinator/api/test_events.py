import asyncio

import pytest

from fedge_coordinator.api.events import QUEUE_LIMIT, EventHub, WatcherTooSlowError
from fedge_coordinator.api.views import Event


def phase(detail: str) -> Event:
    return Event("input", 1_000, {"phase": detail})


async def test_every_watcher_gets_every_event_in_order():
    hub = EventHub()
    first, second = hub.watch(), hub.watch()
    waiting = [asyncio.ensure_future(anext(first)), asyncio.ensure_future(anext(second))]
    await asyncio.sleep(0)
    hub.publish(phase("ready"))
    hub.publish(phase("shares"))
    assert [(await each).fields["phase"] for each in waiting] == ["ready", "ready"]
    assert (await anext(first)).id == 2


async def test_a_watcher_continues_after_the_last_id_it_saw():
    hub = EventHub()
    for detail in ("a", "b", "c"):
        hub.publish(phase(detail))
    watching = hub.watch(after=1)
    assert [(await anext(watching)).fields["phase"] for _ in range(2)] == ["b", "c"]


async def test_a_slow_watcher_is_cut_off_and_the_others_are_not():
    hub = EventHub()
    slow = hub.watch(after=0)
    hub.publish(phase("first"))
    assert (await anext(slow)).fields["phase"] == "first"
    for number in range(QUEUE_LIMIT + 5):
        hub.publish(phase(str(number)))
    got = [await anext(slow) for _ in range(QUEUE_LIMIT)]
    assert got[-1].fields["phase"] == str(QUEUE_LIMIT - 1)
    with pytest.raises(WatcherTooSlowError):
        await anext(slow)
    assert (await anext(hub.watch(after=QUEUE_LIMIT))).id == QUEUE_LIMIT + 1


async def test_closing_ends_every_stream():
    hub = EventHub()
    watching = asyncio.ensure_future(anext(hub.watch()))
    await asyncio.sleep(0)
    hub.close()
    with pytest.raises(StopAsyncIteration):
        await watching
    with pytest.raises(StopAsyncIteration):
        await anext(hub.watch())
