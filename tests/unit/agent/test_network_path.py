import socket
import threading
import time

import pytest

from fedge_agent.config import load
from fedge_agent.kernel_layer import NetworkAdmission
from fedge_agent.network_path import NetworkPath
from fedge_transport.route import Proxy, SystemDirectory

ENFORCED = NetworkAdmission(enforced=True, detail="denied", guarded=True)
OPEN = NetworkAdmission(enforced=False, detail="no programs")
AUDITED = NetworkAdmission(enforced=False, detail="audit", guarded=True)
LIMITS = "daily_budget_mib = 8\nrate_kib_per_s = 16\n"


@pytest.fixture
def path_of(tmp_path):
    def make(mode: str, network: NetworkAdmission, limits: str = LIMITS) -> NetworkPath:
        config = tmp_path / "agent.toml"
        head = f'state_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}/run"\n'
        config.write_text(f'{head}[kernel]\nnetwork = "{mode}"\n{limits}')
        return NetworkPath.of(load(config), network)

    return make


@pytest.mark.parametrize(("mode", "network"), [("require", ENFORCED), ("prefer", ENFORCED), ("audit", AUDITED)])
def test_where_the_kernel_guards_the_book_tells_addresses_and_the_kernel_counts(path_of, mode, network, caplog):
    path = path_of(mode, network)
    assert path.book is not None
    assert (path.budget, path.pace_bytes_per_s) == (None, None)
    assert path.route.directory is path.book
    assert caplog.text == ""


def test_prefer_without_the_kernel_counts_and_paces_by_itself_and_says_so_once(path_of, caplog):
    path = path_of("prefer", OPEN)
    assert path.book is None
    assert path.budget is not None
    assert path.budget.limit_bytes == 8 * 1024 * 1024
    assert path.route.pace_bytes_per_s == 16 * 1024
    assert isinstance(path.route.directory, SystemDirectory)
    assert caplog.text.count("the kernel does not guard the network (no programs)") == 1
    path.close()


def test_prefer_without_the_kernel_and_without_limits_says_that_there_are_none(path_of, caplog):
    path = path_of("prefer", OPEN, "")
    assert (path.budget, path.pace_bytes_per_s) == (None, None)
    assert "there is no daily budget" in caplog.text


@pytest.mark.parametrize("mode", ["off", "audit"])
def test_off_and_audit_hold_nobody_to_anything(path_of, mode, caplog):
    path = path_of(mode, OPEN)
    assert (path.book, path.budget, path.pace_bytes_per_s) == (None, None, None)
    assert caplog.text == ""


def test_a_proxy_that_answers_drop_by_drop_takes_no_longer_than_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            made, _ = server.accept()
            with made:
                try:
                    while True:
                        made.send(b"x")
                        time.sleep(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        path = NetworkPath(None, Proxy("127.0.0.1", server.getsockname()[1]), None)
        with pytest.raises(OSError, match="timed out"):
            path.dial("mq.example", 8883, 0.3)
        thread.join(10)
        assert not thread.is_alive()
