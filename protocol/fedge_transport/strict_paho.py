"""paho's client for exactly one connection over a socket that is open already, and with less trust in the broker.

What paho leaves open and a hostile broker could use: a packet of 256 MB is collected in memory, unasked QoS 2 messages
pile up, and it resends publications by itself, also one that the broker answers by closing the connection.
"""

from typing import TYPE_CHECKING, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedge_transport.opening import Socket
from fedge_transport.settings import ConnectionSettings

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

IN_FLIGHT_MOST: Final = 20
_QOS_BITS: Final = 0x06
_QOS_2: Final = 0x04


def properties_of(packet_type: int) -> Properties:
    """An empty set of MQTT 5 properties for one type of packet."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


class StrictClient(Client):
    """Speaks MQTT 5 over `sock`. `fault` tells why it gave up, when paho's own code says only "lost"."""

    def __init__(self, settings: ConnectionSettings, sock: Socket) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, settings.client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self.max_inflight_messages = IN_FLIGHT_MOST
        self._given = sock
        self._max_packet_bytes = settings.max_packet_bytes
        self.fault: OSError | None = None
        if settings.will is not None:
            will = settings.will
            self.will_set(will.topic, will.payload, will.qos, will.retain)
        wishes = properties_of(PacketTypes.CONNECT)
        wishes.SessionExpiryInterval = settings.session_expiry_s
        wishes.ReceiveMaximum = settings.receive_maximum
        wishes.MaximumPacketSize = settings.max_packet_bytes
        self.connect_async(
            settings.host, max(settings.port, 1), settings.keepalive_s, clean_start=False, properties=wishes
        )

    def drop(self) -> None:
        """Close the socket without a farewell. Not to be called from one of paho's callbacks (its lock)."""
        self._sock_close()

    def _create_socket(self) -> "SocketLike":
        return self._given

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho asks for the whole remaining packet at once, before anything of it is stored
        try:
            if bufsize > self._max_packet_bytes:
                raise ConnectionError(f"a packet of {bufsize} bytes, at most {self._max_packet_bytes} were agreed")
            return super()._sock_recv(bufsize)
        except BlockingIOError:
            raise
        except OSError as error:
            self.fault = error
            raise

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & _QOS_BITS == _QOS_2:
            self.fault = ConnectionError("a QoS 2 message, though nothing was subscribed with it")
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()
