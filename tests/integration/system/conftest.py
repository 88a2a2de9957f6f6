import shutil
from collections.abc import Iterator

import pytest
from tests.integration.system import ground as grounds
from tests.integration.system.ground import Ground
from tests.integration.system.living_fleet import LivingFleet


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """CA, keys, certificates: made once, since nothing in these tests changes them."""
    if shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/sbin") is None:
        pytest.skip("no mosquitto here; cure: apt install mosquitto")
    laid = grounds.lay(tmp_path_factory.mktemp("ground"))
    yield laid
    laid.children.stop_all()


class _Keeper:
    """Hands the same fleet to test after test, for as long as it is healthy: a start costs ten seconds of CPU."""

    def __init__(self, ground: Ground, factory: pytest.TempPathFactory) -> None:
        self._ground = ground
        self._factory = factory
        self._fleet: LivingFleet | None = None

    def fleet(self) -> LivingFleet:
        if self._fleet is not None and not self._fleet.healthy:
            self.close()
        if self._fleet is None:
            self._fleet = LivingFleet(self._ground, self._factory.mktemp("fleet"))
        return self._fleet

    def close(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None


@pytest.fixture(scope="session")
def keeper(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Keeper]:
    kept = _Keeper(ground, tmp_path_factory)
    yield kept
    kept.close()


@pytest.fixture
def fleet(keeper: _Keeper) -> LivingFleet:
    """Four devices online, no job. A test that leaves it otherwise costs the next one a new fleet."""
    return keeper.fleet()
