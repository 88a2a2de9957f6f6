"""Without anything attached: every part is missing by name, and nothing is zero that is only unknown."""

from pathlib import Path

import pytest

from fedge_agent.config import KernelTable
from fedge_agent.kernel_layer import AdmissionRequiredError, KernelLayer


@pytest.fixture
def nothing(tmp_path: Path) -> str:
    return str(tmp_path / "pins")


def test_with_nothing_attached_counters_and_run_queue_are_unknown(nothing):
    layer = KernelLayer(KernelTable(network="off", pin_dir=nothing))
    assert layer.network.detail == 'kernel.network = "off"'
    assert not layer.network.enforced
    assert layer.counters() == {}
    assert layer.run_queue() is None
    layer.switch_probes(on=True)
    assert layer.missing_features() > 0
    layer.close()


def test_a_cgroup_that_is_given_is_taken(nothing):
    layer = KernelLayer(KernelTable(network="off", pin_dir=nothing, cgroup="/sys/fs/cgroup/some"))
    assert layer.cgroup == Path("/sys/fs/cgroup/some")
    layer.close()


def test_admission_that_is_required_and_not_enforced_stops_the_daemon_with_the_cure(nothing):
    with pytest.raises(AdmissionRequiredError, match=r'kernel\.network = "require".*fedge-bpf attach'):
        KernelLayer(KernelTable(network="require", pin_dir=nothing))


def test_admission_that_is_preferred_and_not_enforced_is_said(nothing):
    layer = KernelLayer(KernelTable(network="prefer", pin_dir=nothing))
    assert not layer.network.enforced
    assert layer.network.detail
    layer.close()
