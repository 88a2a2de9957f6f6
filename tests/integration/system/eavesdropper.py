"""The broker's own eyes and hands: sees every message of the fleet, and can publish on any topic. It has no key."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.integration.system.ground import FLEET, Credentials, Ground

from fedge_protocol import topics

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Seen:
    """One message on its way."""

    topic: str
    payload: bytes


def tls_context(who: Credentials) -> ssl.SSLContext:
    """A client's side of mutual TLS."""
    context = ssl.create_default_context(cafile=str(who.ca))
    context.load_cert_chain(who.cert, who.key)
    return context


class Eavesdropper:
    """Follows everything below `fedge/v1/FLEET`, also after the broker was gone."""

    def __init__(self, ground: Ground) -> None:
        assert ground.eavesdropper is not None
        who = ground.eavesdropper
        self.seen: list[Seen] = []
        self._invented: set[Seen] = set()
        self._subscribed = threading.Event()
        self._changed = threading.Condition()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=who.name, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(tls_context(who))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect_async("127.0.0.1", ground.broker_port)
        self._client.loop_start()
        assert self._subscribed.wait(_TIMEOUT_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish as the broker could; returns when it is on its way."""
        if Seen(topic, payload) not in self.seen:
            self._invented.add(Seen(topic, payload))
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(_TIMEOUT_S)

    def said(self, device: str) -> dict[str, set[bytes]]:
        """The distinct messages of a device by kind, without presence and chunks."""
        found: dict[str, set[bytes]] = {}
        for message in list(self.seen):
            place = topics.parse(message.topic)
            own = message not in self._invented
            if own and isinstance(place, topics.UpTopic) and place.device == device:
                found.setdefault(place.kind, set()).add(message.payload)
        return found

    def wait_for(self, topic: str, wanted: Callable[[bytes], bool] = bool, *, since: int = 0) -> bytes:
        """The first wanted message on a topic after the first `since` messages."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        with self._changed:
            while True:
                for message in self.seen[since:]:
                    if message.topic == topic and wanted(message.payload):
                        return message.payload
                since = len(self.seen)
                assert time.monotonic() < deadline_s, f"nothing on {topic}"
                self._changed.wait(1)

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(f"{topics.PREFIX}/{FLEET}/#", qos=1)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.seen.append(Seen(message.topic, bytes(message.payload)))
            self._changed.notify_all()
