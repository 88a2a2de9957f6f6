"""How the worker's cgroup is set up; on plain files, for controllers that not every machine delegates."""

import pytest

from fedge_agent.admission.worker_control import Limits, WorkerControl


@pytest.fixture
def unit(tmp_path):
    """A delegated cgroup; what the kernel would make in the worker's is made by hand."""
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory")
    worker = tmp_path / "worker"
    worker.mkdir()
    for name in ("cpu.idle", "cpu.weight", "cpu.max", "memory.max"):
        (worker / name).write_text("")
    return tmp_path


def test_the_workers_cgroup_ranks_behind_the_daemons_and_has_its_limits(unit):
    control = WorkerControl(unit, Limits(90 << 20, 50))
    control.prepare()
    assert control.degraded == ()
    worker = unit / "worker"
    assert (worker / "cpu.idle").read_text() == "1"
    assert (worker / "cpu.max").read_text() == "50000 100000"
    assert (worker / "memory.max").read_text() == str(90 << 20)
    assert (worker / "cgroup.freeze").read_text() == "0"


def test_where_a_cgroup_cannot_be_idle_it_weighs_least_and_that_is_told(unit):
    (unit / "worker/cpu.idle").unlink()
    (unit / "worker/cpu.idle").mkdir()  # which cannot be written
    control = WorkerControl(unit)
    control.prepare()
    assert (unit / "worker/cpu.weight").read_text() == "1"
    assert [(item.means, item.instead) for item in control.degraded] == [("cpu.idle", "cpu.weight 1")]


def test_without_the_cpu_controller_the_scheduling_class_ranks_it_and_nothing_is_degraded(unit):
    (unit / "cgroup.subtree_control").write_text("memory")
    control = WorkerControl(unit)
    control.prepare()
    assert (unit / "worker/cpu.idle").read_text() == ""
    assert control.degraded == ()
