"""paho-mqtt 2.x: MQTT 5 with a real broker, a message at QoS 1 with a property, there and back."""

import threading

import paho.mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

assert str(paho.mqtt.__file__).startswith("/usr/lib/fedge/"), "Debian's is 1.6 and has no such constructor"
arrived, subscribed = threading.Event(), threading.Event()
seen: list[tuple[bytes, str]] = []


def on_message(_, __, message):
    seen.append((message.payload, message.properties.ContentType))
    arrived.set()


client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
client.on_message = on_message
client.on_subscribe = lambda *_: subscribed.set()
client.connect("127.0.0.1", 1885)
client.loop_start()
client.subscribe("fedge/probe", qos=1)
assert subscribed.wait(20)
properties = Properties(PacketTypes.PUBLISH)
properties.ContentType = "application/cbor"
client.publish("fedge/probe", b"payload", qos=1, properties=properties).wait_for_publish(20)
assert arrived.wait(20)
assert seen == [(b"payload", "application/cbor")]
client.disconnect()
client.loop_stop()
