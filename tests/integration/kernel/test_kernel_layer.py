"""The layer as the daemon has it: in an event loop, over real maps."""

import asyncio
import logging

import pytest

from fedge_agent.config import KernelTable
from fedge_agent.kernel.features import FEATURES
from fedge_agent.kernel.telemetry_ring import read_ring
from fedge_agent.kernel_layer import AdmissionRequiredError, KernelLayer


def settings(pin_dir, tmp_path, network="prefer"):
    return KernelTable(network=network, pin_dir=str(pin_dir), telemetry_file=str(tmp_path / "telemetry.ring"))


async def test_refusals_are_logged_as_they_happen(fedge_bpf, cgroup, client, pin_dir, tmp_path, caplog):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    layer = KernelLayer(settings(pin_dir, tmp_path))
    with caplog.at_level(logging.WARNING):
        client(cgroup).ask("tcp", "127.0.0.1", 1234)
        async with asyncio.timeout(20):
            while "port 1234" not in caplog.text:  # noqa: ASYNC110 - the log tells no event
                await asyncio.sleep(0.01)
    assert "refused (not allowed) at connect: tcp to 127.0.0.1 port 1234" in caplog.text
    assert layer.counters()["denied_connect"] == 1
    layer.close()


async def test_windows_go_to_the_ring_and_closing_leaves_it_whole(fedge_bpf, cgroup, pin_dir, tmp_path):
    fedge_bpf("attach", "--cgroup", str(cgroup))
    for number in (1, 2):
        layer = KernelLayer(settings(pin_dir, tmp_path))
        layer.record()
        layer.close()
        assert [window.number for window in read_ring(tmp_path / "telemetry.ring")] == list(range(1, number + 1))
    assert layer.missing_features() < 1 << len(FEATURES)


async def test_audit_mode_says_that_nothing_is_refused(fedge_bpf, cgroup, pin_dir, tmp_path):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--mode", "audit")
    layer = KernelLayer(settings(pin_dir, tmp_path, "audit"))
    assert not layer.network.enforced
    assert layer.network.detail.startswith("audit mode, nothing is refused")
    layer.close()


async def test_require_does_not_start_where_nothing_is_enforced(root_privilege, tmp_path):
    with pytest.raises(AdmissionRequiredError, match="run fedge-bpf attach"):
        KernelLayer(settings(tmp_path / "no-pins", tmp_path, "require"))
