import json
import ssl
import time
from datetime import UTC, datetime

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedge_agent.identity.enroll import enroll
from fedge_coordinator.enrolment.authority import Authority
from fedge_protocol.certificates import CertificateReason, CertificateRefusedError, verify_device_certificate

NOT_AUTHORISED = 135
ACCEPTED = {0, 16}  # 16: accepted, and nobody is subscribed
TIMEOUT_S = 15


class RefusedConnectionError(Exception):
    """No CONNACK, or not a success."""


REFUSED = (ssl.SSLError, ConnectionError, RefusedConnectionError)


class Client:
    """One MQTT connection, driven by hand; remembers what happened."""

    def __init__(self, port, ca_file, cert, key, *, client_id="", expiry_s=0, will=None):
        self.acks: list[int] = []
        self.messages: list[tuple[str, bytes]] = []
        self.connected: list[int] = []
        self.ended: list[int] = []
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self.mqtt.on_connect = lambda _c, _u, _f, code, _p: self.connected.append(code.value)
        self.mqtt.on_publish = lambda _c, _u, _m, code, _p: self.acks.append(code.value)
        self.mqtt.on_message = lambda _c, _u, message: self.messages.append((message.topic, bytes(message.payload)))
        self.mqtt.on_disconnect = lambda _c, _u, _f, code, _p: self.ended.append(code.value)
        context = ssl.create_default_context(cafile=str(ca_file))
        context.load_cert_chain(cert, key)
        self.mqtt.tls_set_context(context)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry_s
        self.mqtt.connect("localhost", port, keepalive=60, clean_start=True, properties=properties)
        if not self.until(lambda: self.connected) or self.connected != [0]:
            raise RefusedConnectionError

    def until(self, met) -> bool:
        deadline = time.monotonic() + TIMEOUT_S
        while not met() and time.monotonic() < deadline:
            if self.mqtt.loop(timeout=0.1) != mqtt.MQTT_ERR_SUCCESS:
                break
        return bool(met())

    def publish(self, topic, payload=b"x", *, retain=False) -> int:
        before = len(self.acks)
        self.mqtt.publish(topic, payload, qos=1, retain=retain)
        assert self.until(lambda: len(self.acks) > before)
        return int(self.acks[-1])

    def topics(self) -> set[str]:
        return {topic for topic, _ in self.messages}

    def subscribe(self, *topics) -> None:
        done = []
        self.mqtt.on_subscribe = lambda *_: done.append(1)
        self.mqtt.subscribe([(topic, 1) for topic in topics])
        assert self.until(lambda: done)


@pytest.fixture(scope="module")
def shared_broker(ca, make_broker, link_broker):
    broker = make_broker(ca)
    ca.stop()
    link_broker(ca, broker)
    ca.start()
    return broker


@pytest.fixture
def fleet(shared_broker, ca, make_broker):
    """The broker, started again when the test before has killed it."""
    if shared_broker.process.poll() is not None:
        shared_broker.process = make_broker(ca, fresh=False).process
    return shared_broker


@pytest.fixture
def coordinator(fleet, ca):
    return Client(fleet.port, ca.folder / "ca.pem", ca.coordinator / "cert.pem", ca.coordinator / "key.pem")


def connect(fleet, enrolment, **options) -> Client:
    return Client(fleet.port, enrolment.ca_file, enrolment.certificate_file, enrolment.key_file, **options)


@pytest.fixture
def two(ca, tmp_path):
    return enroll(ca.token(), tmp_path / "a"), enroll(ca.token(), tmp_path / "b")


def up(enrolment, kind="ready") -> str:
    return f"fedge/v1/lab/device/{enrolment.device_id}/up/{kind}"


def down(enrolment) -> str:
    return f"fedge/v1/lab/device/{enrolment.device_id}/down/round"


def test_a_device_writes_its_own_topics_and_the_coordinator_reads_them(fleet, coordinator, two):
    coordinator.subscribe("fedge/v1/lab/device/+/up/#", "fedge/v1/lab/device/+/presence")
    device = connect(fleet, two[0])
    assert device.publish(up(two[0])) in ACCEPTED
    assert device.publish(f"fedge/v1/lab/device/{two[0].device_id}/presence", retain=True) == 0
    assert coordinator.until(lambda: len(coordinator.messages) == 2)


@pytest.mark.parametrize(
    "topic",
    [
        "fedge/v1/lab/device/{other}/up/ready",
        "fedge/v1/lab/device/{other}/presence",
        "fedge/v1/lab/device/{own}/down/round",
        "fedge/v1/lab/job/mnist/offer",
        "fedge/v1/lab/blob/00/0",
        "fedge/v1/other/device/{own}/up/ready",
        "$CONTROL/dynamic-security/v1",
    ],
)
def test_a_device_may_write_nowhere_else(fleet, coordinator, two, topic):
    coordinator.subscribe("fedge/v1/#")
    coordinator.messages.clear()
    device = connect(fleet, two[0])
    forged = topic.format(own=two[0].device_id, other=two[1].device_id)
    assert device.publish(forged, b"forged") == NOT_AUTHORISED
    second = connect(fleet, two[1])
    assert second.publish(up(two[1])) in ACCEPTED
    assert coordinator.until(lambda: up(two[1]) in coordinator.topics())
    assert b"forged" not in {payload for _, payload in coordinator.messages}


def test_a_device_reads_its_own_messages_offers_and_blobs_and_nobody_elses(fleet, coordinator, two):
    device = connect(fleet, two[0])
    device.subscribe("fedge/v1/lab/#", "fedge/v1/lab/device/+/down/#", "$SYS/#")
    topics = [down(two[1]), down(two[0]), "fedge/v1/lab/job/mnist/offer", "fedge/v1/lab/blob/00/0"]
    for topic in topics:
        assert coordinator.publish(topic) in ACCEPTED
    assert device.until(lambda: any(topic.endswith("blob/00/0") for topic, _ in device.messages))
    assert device.topics() == set(topics[1:])


def test_a_device_cannot_take_over_another_devices_session(fleet, two):
    first = connect(fleet, two[0], client_id=two[0].device_id, expiry_s=60)
    second = connect(fleet, two[1], client_id=two[0].device_id, expiry_s=60)
    assert second.publish(up(two[1])) in ACCEPTED
    assert first.publish(up(two[0])) in ACCEPTED
    assert first.ended == []


def test_a_device_of_another_fleet_fails_in_the_handshake(fleet, ca, make_ca, tmp_path):
    stranger = enroll(make_ca("other").token(), tmp_path / "stranger")
    with pytest.raises(REFUSED):
        Client(fleet.port, ca.folder / "ca.pem", stranger.certificate_file, stranger.key_file)
    assert fleet.until_logged("unknown ca", "certificate verify failed")


def test_a_client_without_a_certificate_fails_in_the_handshake(fleet, ca):
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    codes = []
    client.on_connect = lambda _c, _u, _f, code, _p: codes.append(code.value)
    client.tls_set_context(ssl.create_default_context(cafile=str(ca.folder / "ca.pem")))
    try:
        client.connect("localhost", fleet.port)
        while client.loop(timeout=0.5) == mqtt.MQTT_ERR_SUCCESS and not codes:
            continue
    except (ssl.SSLError, ConnectionError):
        pass
    assert codes == []
    assert fleet.until_logged("peer did not return a certificate")


def test_the_brokers_own_certificate_does_not_open_the_broker(fleet, ca):
    with pytest.raises(REFUSED):
        Client(fleet.port, ca.folder / "ca.pem", fleet.folder / "cert.pem", fleet.folder / "key.pem")


def test_tls_below_1_3_is_refused(fleet, two):
    context = ssl.create_default_context(cafile=str(two[0].ca_file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.tls_set_context(context)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        client.connect("localhost", fleet.port)


def test_a_message_larger_than_any_of_ours_ends_the_connection(fleet, two):
    device = connect(fleet, two[0])
    assert device.publish(up(two[0]), bytes(128 * 1024 + 1024)) in ACCEPTED
    device.mqtt.publish(up(two[0]), bytes(256 * 1024), qos=1)
    assert device.until(lambda: device.ended)


def test_a_revoked_devices_session_ends_and_it_never_comes_back(fleet, ca, two):
    revoked, other = connect(fleet, two[0], expiry_s=3600), connect(fleet, two[1])
    assert revoked.publish(up(two[0])) in ACCEPTED
    answer = json.loads(ca.command("revoke", two[0].device_id, "-o", "json"))
    assert answer == {"name": two[0].device_id, "devices": [two[0].device_id], "broker": "told"}
    assert revoked.until(lambda: revoked.ended)
    assert fleet.until_logged(f"Client {two[0].device_id} already connected, closing old connection")
    with pytest.raises(REFUSED):
        connect(fleet, two[0])
    assert fleet.until_logged("certificate verify failed")
    assert other.publish(up(two[1])) in ACCEPTED


def test_a_revocation_while_the_broker_is_down_holds_when_it_starts_again(fleet, ca, two, make_broker):
    fleet.process.kill()
    fleet.process.wait(10)
    answer = json.loads(ca.command("revoke", two[0].device_id, "-o", "json"))
    assert "is the broker running?" in answer["broker"]
    again = make_broker(ca, fresh=False)
    with pytest.raises(REFUSED):
        connect(again, two[0])
    assert connect(again, two[1]).publish(up(two[1])) in ACCEPTED


def test_the_evicting_certificate_is_no_devices(fleet, ca, two):
    """What the CA uses to end a session cannot be used to be the device towards anybody who checks certificates."""
    authority = Authority.load((ca.folder / "ca.key").read_bytes(), (ca.folder / "ca.pem").read_bytes(), "lab")
    certificate, key = authority.issue_eviction(two[0].device_id, now=datetime.now(UTC))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with pytest.raises(CertificateRefusedError) as refusal:
        verify_device_certificate(
            certificate.public_bytes(serialization.Encoding.DER), ca=authority.certificate, fleet="lab", now=time.time()
        )
    assert refusal.value.reason is CertificateReason.WRONG_ROLE
