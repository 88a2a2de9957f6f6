"""The MQTT 5 client of 2.x; Debian's 1.6 has no such constructor."""

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
assert client.publish("topic", b"x", qos=1).rc == MQTTErrorCode.MQTT_ERR_NO_CONN
