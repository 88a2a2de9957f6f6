import uuid
from collections.abc import Callable

import pytest
from tests.integration.broker_fixture import COORDINATOR, Broker

from fedge_protocol.backoff import Backoff
from fedge_transport.settings import ConnectionSettings

QUICK = Backoff(first_s=0.02, factor=1.5, ceiling_s=0.2)


@pytest.fixture
def device_name() -> str:
    """A device id that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def settings_for() -> Callable[..., ConnectionSettings]:
    """Settings of a connection to a broker under a certificate name, impatient; keywords replace single ones.

    The coordinator's session ends with its connection, so that tests that share a broker do not hear each other.
    """

    def make(broker: Broker, name: str, **changes: object) -> ConnectionSettings:
        identity = broker.identity(name)
        values: dict[str, object] = {
            "host": broker.host,
            "port": broker.port,
            "client_id": name,
            "ca_file": identity.ca_file,
            "cert_file": identity.cert_file,
            "key_file": identity.key_file,
            "backoff": QUICK,
            "session_expiry_s": 0 if name == COORDINATOR else 600,
            **changes,
        }
        return ConnectionSettings(**values)  # type: ignore[arg-type]

    return make
