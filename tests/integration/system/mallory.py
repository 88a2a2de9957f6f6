"""A member of the fleet that has turned against it: an enrolled device's keys in the hands of a test."""

import hashlib
import os
import threading
from typing import Any

import cbor2
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.integration.system.eavesdropper import tls_context
from tests.integration.system.ground import FLEET, Credentials, Ground

from fedge_agent.identity import keys
from fedge_agent.identity.record import CA_PEM, CERTIFICATE_PEM
from fedge_protocol import topics
from fedge_protocol.cose import context_of, encode
from fedge_protocol.messages import PRESENCE_KIND, Body, Offer, Prekeys, PrekeyStatement, Presence, Ready, Up
from fedge_protocol.messages import prekey_statement as statement_of
from fedge_protocol.secagg.prekeys import generate

FAILURE = 0x80
"""Reason codes from here on are errors (MQTT 5, 2.4)."""

_TIMEOUT_S = 30.0


class Mallory:
    """Publishes whatever it likes under its own name."""

    def __init__(self, ground: Ground) -> None:
        home = ground.homes[-1]
        self.identity = keys.load(home)
        self.name = self.identity.device_id
        self._codes: dict[int, int] = {}
        self._answered = threading.Condition()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.name, protocol=mqtt.MQTTv5)
        files = Credentials(self.name, home / CA_PEM, home / CERTIFICATE_PEM, home / keys.IDENTITY_KEY)
        self._client.tls_set_context(tls_context(files))
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", ground.broker_port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish and return the broker's reason code."""
        mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        with self._answered:
            assert self._answered.wait_for(lambda: mid in self._codes, _TIMEOUT_S), topic
            return self._codes[mid]

    def send(self, kind: str, payload: bytes) -> None:
        """Publish to the coordinator."""
        assert self.publish(topics.up(FLEET, self.name, kind), payload) < FAILURE

    def say(self, kind: Up, body: Body, *, signed_as: str | None = None) -> bytes:
        """Send a signed message; `signed_as` another kind than it is sent as. Returns the message."""
        message = self.signed(signed_as or kind, encode(body))
        self.send(kind, message)
        return message

    def signed(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(body, context_of(FLEET, self.name, kind))

    def appear(self, *, online: bool) -> None:
        """A birth, or a farewell."""
        message = self.signed(PRESENCE_KIND, encode(Presence(online, bytes(16), "0", 0)))
        self.publish(topics.presence(FLEET, self.name), message, retain=True)

    def publish_prekeys(self, first_id: int) -> None:
        statements = []
        for prekey in generate(first_id, 4, os.urandom):
            signed = statement_of(FLEET, self.name, prekey.prekey_id, prekey.mask_public, prekey.channel_public)
            signature = self.identity.sign_raw(signed)
            statements.append(PrekeyStatement(prekey.prekey_id, prekey.mask_public, prekey.channel_public, signature))
        self.say(Up.PREKEYS, Prekeys(tuple(statements)))

    @staticmethod
    def ready(offer: Offer, prekey_id: int, **changes: Any) -> Ready:
        """A READY that is right but for `changes`."""
        fields: dict[str, Any] = {
            "job": offer.job,
            "round": offer.round,
            "attempt": offer.attempt,
            "prekey_id": prekey_id,
            "weight": 1,
            "nonce": hashlib.sha256(offer.job.encode()).digest()[:16],
            "versions": (1, 1),
        }
        return Ready(**(fields | changes))

    def _on_publish(self, _client: mqtt.Client, _data: object, mid: int, code: Any, _properties: object) -> None:
        with self._answered:
            self._codes[mid] = int(code.value)
            self._answered.notify_all()


def not_canonical(message: bytes) -> bytes:
    """The same COSE message in another encoding: an array of indefinite length."""
    tag = cbor2.loads(message)
    parts = b"".join(cbor2.dumps(part) for part in tag.value)
    return b"\xd2\x9f" + parts + b"\xff"
