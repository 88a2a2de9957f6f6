"""Enrolment and renewal through a real proxy, with nothing but the proxy's name resolved; bytes counted."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.enrolment.conftest import Ca
from tests.integration.proxy_fixture import PASSWORD, USER, Tinyproxy

from fedge_agent.config import load
from fedge_agent.identity.enroll import enroll
from fedge_agent.identity.errors import CaUnreachableError
from fedge_agent.identity.renewal import renew
from fedge_agent.kernel.user_budget import UserBudget
from fedge_agent.network_path import NetworkPath

MIB = 1024 * 1024


@pytest.fixture
def proxy(tmp_path: Path, ca: Ca) -> Iterator[Tinyproxy]:
    if shutil.which("tinyproxy") is None:
        pytest.skip("no tinyproxy here; cure: apt install tinyproxy-bin")
    made = Tinyproxy(tmp_path, ca.port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def path(tmp_path: Path, proxy: Tinyproxy) -> NetworkPath:
    secret = tmp_path / "secret"
    secret.write_text(f"{USER}:{PASSWORD}\n")
    secret.chmod(0o600)
    config = tmp_path / "agent.toml"
    config.write_text(f'[network]\nproxy = "http://{proxy.host}:{proxy.port}"\nproxy_credentials = "{secret}"\n')
    return NetworkPath.of_command(load(config))


def no_sleep(_: float) -> None:
    """No pause."""


def test_a_device_enrols_and_renews_through_the_proxy_alone(ca, proxy, path, tmp_path):
    enrolled = enroll(ca.token(), tmp_path / "device", way=path)
    before = len(proxy.requests())
    assert before == 3
    renewed = renew(tmp_path / "device", rotate_key=False, way=path)
    assert renewed.device_id == enrolled.device_id
    assert len(proxy.requests()) == before + 2
    assert all(f"CONNECT localhost:{ca.port}" in request for request in proxy.requests())


def test_what_the_proxy_says_reaches_the_owner(ca, proxy, path, tmp_path):
    (tmp_path / "secret").write_text("device:wrong\n")
    with pytest.raises(CaUnreachableError, match=r"the proxy answers 401.*network\.proxy_credentials"):
        enroll(ca.token(), tmp_path / "device", way=path, sleep=no_sleep)


def test_the_exchange_with_the_ca_counts_and_stops_at_the_budget(ca, path, tmp_path):
    budget = UserBudget(tmp_path / "budget", MIB)
    counted = NetworkPath(None, path.proxy, budget)
    enroll(ca.token(), tmp_path / "device", way=counted)
    assert 5_000 < MIB - budget.left_bytes < 50_000
    budget.use(MIB)
    with pytest.raises(CaUnreachableError, match=r"the day's bytes are spent"):
        renew(tmp_path / "device", rotate_key=False, way=counted, sleep=no_sleep)
