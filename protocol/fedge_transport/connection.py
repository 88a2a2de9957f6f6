"""The connection to the broker that outlives its links: reconnects, restores subscriptions, routes what comes in."""

import asyncio
import random
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from fedge_protocol.backoff import Uniform
from fedge_transport.errors import DisconnectedError, SubscribeRefusedError
from fedge_transport.events import Connected, Disconnected, Ending, Event, EventStream, FiltersRefused
from fedge_transport.inbox import Inbox, Incoming
from fedge_transport.link import Ended, Link
from fedge_transport.opening import open_socket
from fedge_transport.route import Route
from fedge_transport.settings import ConnectionSettings
from fedge_transport.tls import client_context

_STABLE_S: Final = 30.0
_RETIRED_ROUTES: Final = 64
_LOOK_AT_BUDGET_S: Final = 600.0
"""The clock by which a new day begins may be set meanwhile."""


class Connection:
    """Publishes, subscribes and receives over MQTT 5, through any number of broken links.

    Used as `async with`: it connects in the background and goes on trying until it is left.

    Args:
        settings: where, who, bounds.
        route: how to get there; by default straight, by the system's resolver.
        uniform: randomness of the waits between attempts.
        clock: monotonic seconds; a link that lived for 30 s makes the next wait short again.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        route: Route | None = None,
        uniform: Uniform = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._route = route or Route()
        self._uniform = uniform
        self._clock = clock
        self._filters: dict[str, None] = {}
        self._confirmed: set[str] = set()
        self._unwanted: set[str] = set()
        self._inbox = Inbox(2 * settings.receive_maximum)
        self._routes: dict[str, Inbox] = {}
        self._retired: deque[str] = deque(maxlen=_RETIRED_ROUTES)
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._latest: Event | None = None
        self._link: Link | None = None
        self._ready = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing = False
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start connecting; does not wait for it.

        Raises:
            OSError: a certificate or key file cannot be used (`ssl.SSLError` is a kind of it).
        """
        client_context(self.settings)
        self._task = asyncio.create_task(self._run(), name=f"mqtt {self.settings.client_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and our subscriptions."""
        return self._link is not None

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, as the last attempt said; None while there is one, and before the first."""
        latest = self._latest
        return latest.detail or str(latest.reason) if isinstance(latest, Disconnected) else None

    async def wait_connected(self) -> None:
        """Return once connected. Bound it with `asyncio.timeout`.

        Raises:
            DisconnectedError: this connection was closed, so that it will never be.
        """
        while True:
            await self._ready.wait()
            if self._over:
                raise DisconnectedError("the connection was closed")
            if self._link is not None and self._link.alive:
                return
            await asyncio.sleep(0)  # it has just broken, which is taken note of in the loop's next turns

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        """Publish once; returns when the broker acknowledged (QoS 1), which does not mean that anybody received it.

        At most 20 publications, or what the broker allows, are under way; others wait their turn here.

        Raises:
            DisconnectedError: no connection, or it broke before the answer; nothing is resent by itself.
            NotAuthorisedError: forbidden by the broker's access list.
            TooLargeError: above `max_packet_bytes` or the broker's limit.
            PublishRefusedError: any other refusal.
            ValueError: the topic is empty or contains a wildcard.
        """
        if self._link is None:
            raise DisconnectedError(f"not connected to {self.settings.host}:{self.settings.port}")
        await self._link.publish(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)

    async def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1, from now on and after every reconnection; without a connection, from the next one.

        Raises:
            SubscribeRefusedError: the broker refused a filter (it is then forgotten). Mosquitto never does: it grants
                what its access list forbids and delivers nothing.
        """
        self._filters.update(dict.fromkeys(filters))
        self._unwanted.difference_update(filters)
        new = [wanted for wanted in dict.fromkeys(filters) if wanted not in self._confirmed]
        if self._link is None or not new:
            return
        try:
            refused = await self._link.subscribe(new)
        except DisconnectedError:
            return  # restored before the next `Connected`
        self._confirm(new, refused)
        if refused:
            raise SubscribeRefusedError(f"the broker refused {', '.join(refused)}")

    async def unsubscribe(self, *filters: str) -> None:
        """Take filters back, now or, without a connection, at the next one."""
        for unwanted in filters:
            self._filters.pop(unwanted, None)
        self._confirmed.difference_update(filters)
        self._unwanted.update(filters)
        if self._link is not None:
            try:
                await self._link.unsubscribe(filters)
            except DisconnectedError:
                return
            self._unwanted.difference_update(filters)

    def incoming(self) -> Inbox:
        """Everything received that no route takes, for one reader: `async for message in connection.incoming()`."""
        return self._inbox

    def route(self, prefix: str) -> Inbox:
        """Send messages whose topic starts with `prefix` to an inbox of their own, until `unroute`.

        Raises:
            ValueError: when the prefix is routed already.
        """
        if prefix in self._routes:
            raise ValueError(f"{prefix} is routed already; one reader a route")
        if prefix in self._retired:
            self._retired.remove(prefix)
        inbox = self._routes[prefix] = Inbox(2 * self.settings.receive_maximum)
        return inbox

    def unroute(self, prefix: str) -> None:
        """End a route; what still waits in its inbox, or comes late, is acknowledged and forgotten."""
        inbox = self._routes.pop(prefix)
        self._retired.append(prefix)
        inbox.drain()
        inbox.end()

    def events(self) -> EventStream:
        """A stream of what happens to the connection, for one reader, beginning with the present state."""
        stream = EventStream(self._latest)
        self._streams.add(stream)
        return stream

    async def reconnect(self) -> None:
        """Leave the present link in good order and connect anew at once: a renewed certificate, another network."""
        self._hurry.set()
        if self._link is not None:
            await self._link.close()

    async def close(self) -> None:
        """Say farewell to the broker (the last will does not fire) and end every iteration over this connection."""
        self._closing = True
        task, self._task = self._task, None
        if task is None:
            return
        try:
            if self._link is not None:
                await self._link.close()
        finally:
            task.cancel()
        failure = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(failure, Exception):
            raise failure

    async def _run(self) -> None:
        failure: BaseException | None = None
        failures = 0
        try:
            while not self._closing:
                began_s = self._clock()
                ended = await self._once()
                failures = 0 if self._clock() - began_s >= _STABLE_S else failures + 1
                await self._pause(ended, failures)
        except Exception as error:
            failure = error
            raise
        finally:
            self._over = True
            self._ready.set()
            self._emit(Disconnected(Ending.CLOSED, repr(failure) if failure else "closed by this side", None))
            for inbox in (self._inbox, *self._routes.values()):
                inbox.end(failure)
            for stream in self._streams:
                stream.end()

    async def _pause(self, ended: Ended, failures: int) -> None:
        if self._closing:
            return
        backoff = self.settings.backoff
        allowance = self._route.allowance
        attempt = 64 if ended.reason is Ending.TAKEN_OVER else max(failures - 1, 0)
        delay_s = 0.0 if self._hurry.is_set() else backoff.delay_s(attempt, self._uniform)
        if ended.reason is Ending.BUDGET and allowance is not None:
            delay_s = min(max(allowance.refilled_in_s(), delay_s), _LOOK_AT_BUDGET_S)
        self._emit(Disconnected(ended.reason, ended.detail, delay_s))
        try:
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _once(self) -> Ended:
        """One link, from its socket to its end."""
        link: Link | None = None
        if self._route.allowance is not None and self._route.allowance.spent:
            return Ended(Ending.BUDGET, "the day's bytes are spent")
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                sock = await open_socket(self.settings, client_context(self.settings), self._route)
                link = Link(self.settings, sock, self._receive, self._route.allowance)
                session_present = await link.start()
                refused = await self._restore(link, session_present=session_present)
            self._link = link
            self._ready.set()
            self._emit(Connected(session_present))
            if refused:
                self._emit(FiltersRefused(refused))
            return await asyncio.shield(link.ended)
        except DisconnectedError:
            return link.ended.result() if link is not None else Ended(Ending.LOST, "")
        except TimeoutError:
            return Ended(Ending.UNREACHABLE, f"no answer within {self.settings.connect_timeout_s} s")
        except ssl.SSLError as error:
            return Ended(Ending.TLS, str(error))
        except OSError as error:
            return Ended(Ending.UNREACHABLE, str(error))
        finally:
            self._link = None
            self._ready.clear()
            if link is not None:
                link.abort(Ending.CLOSED, "abandoned")

    async def _restore(self, link: Link, *, session_present: bool) -> tuple[str, ...]:
        if not session_present:
            self._confirmed.clear()
            self._unwanted.clear()
        refused: tuple[str, ...] = ()
        while True:  # what is asked for while we wait for the broker is restored as well
            wanted = [one for one in self._filters if one not in self._confirmed]
            unwanted = list(self._unwanted)
            if not wanted and not unwanted:
                return refused
            await link.unsubscribe(unwanted)
            self._unwanted.difference_update(unwanted)
            denied = await link.subscribe(wanted)
            self._confirm(wanted, denied)
            refused += denied

    def _confirm(self, asked: list[str], refused: tuple[str, ...]) -> None:
        for denied in refused:
            self._filters.pop(denied, None)
        self._confirmed.update(one for one in asked if one in self._filters)

    def _receive(self, message: Incoming) -> None:
        for prefix, inbox in self._routes.items():
            if message.topic.startswith(prefix):
                inbox.put(message)
                return
        if any(message.topic.startswith(prefix) for prefix in self._retired):
            message.ack()
            return
        self._inbox.put(message)

    def _emit(self, event: Event) -> None:
        if not isinstance(event, FiltersRefused):
            self._latest = event
        for stream in self._streams:
            stream.put(event)
