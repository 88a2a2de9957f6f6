"""What a daemon that was taken over can do to root's policy by its own `identity.json`: nothing."""

import json
import os

import pytest

MIB = 1024 * 1024


@pytest.fixture
def state_dir(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def enrol(state_dir):
    def write(url, broker_url):
        path = state_dir / "identity.json"
        path.write_text(json.dumps({"url": url, "answer": {"broker_url": broker_url}}))
        path.chmod(0o600)

    return write


@pytest.fixture
def guard(fedge_bpf, cgroup, state_dir):
    """Runs `fedge-bpf attach` or `refresh` as the units do; gives what is allowed, and what was said."""

    def run(command, *more):
        place = ("--cgroup", str(cgroup)) if command == "attach" else ()
        done = fedge_bpf(command, *place, "--enrolment", str(state_dir), "-o", "json", *more)
        return json.loads(done.stdout)["allowed"], done.stderr

    return run


def test_a_daemon_cannot_allow_itself_another_host_by_rewriting_its_enrolment(guard, enrol, cgroup, client):
    guard("attach")
    enrol("https://192.0.2.1:8443", "mqtts://192.0.2.2")
    listed = ["192.0.2.1:8443/tcp", "192.0.2.2:8883/tcp"]
    assert guard("refresh") == (listed, "")
    enrol("https://127.0.0.1:9", "mqtts://127.0.0.1:7")
    allowed, said = guard("refresh")
    assert allowed == listed
    assert "names https://127.0.0.1:9 and mqtts://127.0.0.1:7, but https://192.0.2.1:8443" in said
    assert client(cgroup).ask("tcp", "127.0.0.1", 9) == "EPERM"
    assert guard("attach")[0] == listed, "nor by a new start"


def test_nor_by_removing_it_in_between(guard, enrol, state_dir):
    enrol("https://192.0.2.1:8443", "mqtts://192.0.2.2")
    listed, _ = guard("attach")
    (state_dir / "identity.json").unlink()
    assert guard("refresh")[0] == []
    enrol("https://127.0.0.1:9", "mqtts://127.0.0.1:7")
    assert guard("refresh")[0] == listed


def test_the_owner_accepts_another_fleet_by_removing_the_file(guard, enrol, tmp_path):
    enrol("https://192.0.2.1:8443", "mqtts://192.0.2.2")
    guard("attach")
    enrol("https://192.0.2.9:8443", "mqtts://192.0.2.9")
    path = tmp_path / "budget.enrolment"
    assert f"rm {path}" in guard("refresh")[1]
    path.unlink()
    assert guard("refresh") == (["192.0.2.9:8443/tcp", "192.0.2.9:8883/tcp"], "")


def test_a_pipe_in_place_of_the_enrolment_holds_nobody_up(guard, state_dir):
    os.mkfifo(state_dir / "identity.json", 0o600)
    allowed, said = guard("attach")
    assert (allowed, "no regular file" in said) == ([], True)


def test_a_damaged_enrolment_fills_no_budget_up(guard, enrol, state_dir, fedge_bpf, tmp_path):
    def left():
        return json.loads(fedge_bpf("save", "-o", "json").stdout)["budget"]["left_bytes"]

    limit = ("--daily-budget-mib", "1")
    enrol("https://192.0.2.1:8443", "mqtts://192.0.2.2")
    guard("attach", *limit)
    fedge_bpf("detach")
    spent = tmp_path / "budget"
    spent.write_text(spent.read_text().replace(str(MIB), "1000", 1))
    guard("attach", *limit)
    assert left() == 1000
    fedge_bpf("detach")
    (state_dir / "identity.json").write_text("{}")
    guard("attach", *limit)  # allows nothing, and counts nothing
    enrol("https://192.0.2.1:8443", "mqtts://192.0.2.2")
    guard("refresh", *limit)
    assert left() == 1000
