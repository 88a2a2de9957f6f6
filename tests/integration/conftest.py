import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.broker_fixture import Broker, ThrowawayAuthority

FLEET = "lab"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayAuthority:
    """A P-256 certificate authority for this test session."""
    return ThrowawayAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: ThrowawayAuthority) -> Iterator[Broker]:
    """A Mosquitto that all tests of the session share: do not kill it; use device names of your own."""
    yield from _running_broker(tmp_path_factory.mktemp("broker"), authority)


@pytest.fixture
def mortal_broker(tmp_path: Path, authority: ThrowawayAuthority) -> Iterator[Broker]:
    """A Mosquitto of the test's own, to be killed and started again."""
    directory = tmp_path / "broker"
    directory.mkdir()
    yield from _running_broker(directory, authority)


def _running_broker(directory: Path, authority: ThrowawayAuthority) -> Iterator[Broker]:
    if shutil.which("mosquitto") is None:
        pytest.skip("no mosquitto here; cure: apt install mosquitto")
    broker = Broker(directory, authority, FLEET)
    broker.start()
    yield broker
    broker.stop()
