import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from fedge_agent import cli, leave, leave_command, waiting
from fedge_agent.config import load
from fedge_agent.identity import keys
from fedge_agent.identity.ca_client import CaClient
from fedge_agent.identity.enroll import enroll
from fedge_agent.identity.errors import RefusedByCaError
from fedge_agent.leave import Leaving
from fedge_agent.session_record import Duplicate
from fedge_agent.store import DeviceStore
from fedge_protocol.enrolment import PATH_LEAVE, EnrolmentReason, LeaveAnswer, LeaveRequest
from fedge_protocol.secagg.prekeys import generate


@pytest.fixture
def place(tmp_path):
    """The folder of a device that is not enrolled yet, with its configuration."""
    text = f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n[kernel]\nnetwork = "off"\n'
    (tmp_path / "agent.toml").write_text(text)
    return tmp_path


def run(place, *words):
    return cli.main(["--config", str(place / "agent.toml"), *words])


def fill(state):
    """What a device that took part has: a database with prekeys and a round, blobs, a model."""
    store = DeviceStore(state / "state.db", lambda: 1)
    store.add_prekeys(generate(1, 3))
    store.prekeys_published([1, 2])
    store.sign_once("digits", 1, 0, "ready", b"body", lambda _: b"signed")
    store.round_ended("digits", 1, 0, outcome="included")
    store.close()
    for name in ("blobs", "model"):
        (state / name).mkdir()
        (state / name / "file").write_bytes(b"x")
    (state / "blobs" / "folder").mkdir()


def is_member(ca, device):
    return ca.device(device).revoked_at is None


def names(state):
    return {path.name for path in state.iterdir()} - {"state.db-wal", "state.db-shm"}


def test_leaving_revokes_the_certificate_and_deletes_membership_and_keys_but_the_chain_key(ca, place, capsys):
    state = place / "state"
    device = enroll(ca.token(), state).device_id
    chain_key = (state / "chain.key").read_bytes()
    fill(state)
    assert run(place, "leave", "--yes") == cli.EX_OK
    said = capsys.readouterr()
    assert "1 rounds counted this device" in said.err
    assert "chain.key stays; save it" in said.err
    assert "left fleet 'lab'" in said.out
    assert "chain.key is kept" in said.out
    assert not is_member(ca, device)
    assert names(state) == {"chain.key", "state.db", "blobs", "model"}
    assert (state / "chain.key").read_bytes() == chain_key
    assert not list((state / "blobs").iterdir())
    assert not list((state / "model").iterdir())
    store = DeviceStore(state / "state.db", lambda: 1)
    assert store.published_count() == 0
    assert store.unpublished() == []
    assert store.unacknowledged(0) == []
    assert store.has_signed("digits", 1, 0, "ready")
    assert [signed.acknowledged for signed in store.outbox(9)] == [False]
    store.close()


def test_a_device_that_left_can_join_again_with_its_chain_key(ca, place):
    state = place / "state"
    before = enroll(ca.token(), state)
    assert run(place, "leave", "--yes") == cli.EX_OK
    after = enroll(ca.token(), state)
    assert after.device_id != before.device_id
    assert after.device.chain_address == before.device.chain_address


def test_rewards_are_discarded_only_by_name(ca, place, capsys):
    state = place / "state"
    enroll(ca.token(), state)
    fill(state)
    assert run(place, "leave", "--yes", "--discard-rewards") == cli.EX_OK
    assert "WARNING" in capsys.readouterr().err
    assert names(state) == {"blobs", "model"}


def test_leaving_again_is_no_error_and_changes_nothing(ca, place, capsys):
    enroll(ca.token(), place / "state")
    for _ in range(2):
        assert run(place, "leave", "--yes") == cli.EX_OK
    assert "not enrolled: nothing to leave" in capsys.readouterr().out
    assert run(place, "leave", "--yes", "-o", "json") == cli.EX_OK
    assert json.loads(capsys.readouterr().out) == {"left": False, "told": False, "chain_key_kept": True}
    assert run(place, "leave", "--yes", "--discard-rewards") == cli.EX_OK
    assert names(place / "state") == set()


def test_nothing_happens_without_an_answer(ca, place, capsys, monkeypatch):
    device = enroll(ca.token(), place / "state").device_id
    before = names(place / "state")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115 - nobody there
    assert run(place, "leave") == cli.EX_FAILED
    assert "give --yes" in capsys.readouterr().err
    assert names(place / "state") == before
    assert is_member(ca, device)


def test_without_the_ca_the_device_leaves_by_itself_and_says_who_can_do_the_rest(ca, place, capsys, monkeypatch):
    device = enroll(ca.token(), place / "state").device_id
    monkeypatch.setattr("fedge_agent.leave_command.time.sleep", lambda _: None)
    ca.stop()
    try:
        assert run(place, "leave", "--yes") == cli.EX_OK
    finally:
        ca.start()
    said = capsys.readouterr().out
    assert "The fleet was not told (the CA at https://localhost:" in said
    assert f"fedgectl devices revoke {device}" in said
    assert names(place / "state") == {"chain.key"}
    assert is_member(ca, device)


@pytest.mark.parametrize("offline", [False, True])
def test_a_copy_of_a_disk_may_leave_without_ending_the_originals_membership(ca, place, capsys, offline):
    device = enroll(ca.token(), place / "state").device_id
    fill(place / "state")
    store = DeviceStore(place / "state" / "state.db", lambda: 1)
    store.sessions.stop(Duplicate.BEHIND)
    store.close()
    assert run(place, "leave", "--yes", *(["--offline"] if offline else [])) == cli.EX_OK
    said = capsys.readouterr()
    assert "WARNING: duplicate identity" in said.err
    assert ("If this disk is the copy: --offline" in said.err) is not offline
    assert ("The fleet was not told (as asked)" in said.out) is offline
    assert "identity.key" not in names(place / "state")
    assert is_member(ca, device) is offline


@pytest.mark.parametrize("damaged", ["state.db", "identity.key", "identity.json", "device.pem"])
def test_what_is_damaged_is_no_obstacle_to_leaving(ca, place, damaged):
    enroll(ca.token(), place / "state")
    fill(place / "state")
    (place / "state" / damaged).write_bytes(b"garbage " * 1000)
    assert run(place, "leave", "--yes", "--discard-rewards") == cli.EX_OK
    assert names(place / "state") == {"blobs", "model"}


class PowerLossError(Exception):
    """The machine went off."""


def test_after_a_power_loss_at_any_write_or_removal_the_same_command_finishes(ca, place, monkeypatch):
    calls = {name: getattr(os, name) for name in ("fsync", "unlink", "replace", "rename")}
    survived = 0
    for allowed in range(200):
        state = place / str(allowed)
        device = enroll(ca.token(), state).device_id
        fill(state)
        wanted = Leaving(device, "lab", offline=False, discard_rewards=False)
        left = [allowed]

        def dying(name, left=left):
            def call(*arguments, **options):
                if left[0] == 0:
                    raise PowerLossError
                left[0] -= 1
                return calls[name](*arguments, **options)

            return call

        def whole(state=state, wanted=wanted):
            leaving = leave.begun(state) or (leave.begin(state, wanted) if (state / "identity.json").exists() else None)
            if leaving is not None:
                leave.finish(state, leave.tell(state, leaving, lambda _: None))

        for name in calls:
            monkeypatch.setattr(os, name, dying(name))
        try:
            whole()
            break
        except PowerLossError:
            survived += 1
        finally:
            for name, real in calls.items():
                monkeypatch.setattr(os, name, real)
        whole()
        assert {name for name in names(state) if not name.startswith(".")} == {
            "chain.key",
            "state.db",
            "blobs",
            "model",
        }
        assert not is_member(ca, device)
    assert survived > 15


def test_root_deletes_nothing_outside_when_a_folder_is_a_link(ca, place):
    state, outside = place / "state", place / "outside"
    enroll(ca.token(), state)
    outside.mkdir()
    (outside / "precious").touch()
    (state / "blobs").symlink_to(outside)
    (state / "model").mkdir()
    (state / "model" / "link").symlink_to(outside)
    with suppress(OSError):
        run(place, "leave", "--yes")
    assert (outside / "precious").exists()


def test_a_certificate_leaves_for_its_own_device_only(ca, place, tmp_path):
    one, other = enroll(ca.token(), place / "state"), enroll(ca.token(), tmp_path / "other")
    client = CaClient(one.record.url, one.record.answer.ca, chain=(one.certificate_file, one.key_file))
    with pytest.raises(RefusedByCaError) as refused:
        client.post(PATH_LEAVE, LeaveRequest(other.device_id), LeaveAnswer)
    assert refused.value.reason == EnrolmentReason.UNKNOWN_DEVICE
    nobody = CaClient(one.record.url, one.record.answer.ca)
    with pytest.raises(RefusedByCaError) as refused:
        nobody.post(PATH_LEAVE, LeaveRequest(one.device_id), LeaveAnswer)
    assert refused.value.reason == EnrolmentReason.NO_CERTIFICATE
    assert is_member(ca, one.device_id)
    for _ in range(2):  # and may say so twice
        client.post(PATH_LEAVE, LeaveRequest(one.device_id), LeaveAnswer)
    assert not is_member(ca, one.device_id)
    assert is_member(ca, other.device_id)


def test_a_running_daemon_lets_go_and_waits_as_not_enrolled(ca, place, make_broker):
    make_broker(ca)
    device = enroll(ca.token(), place / "state").device_id
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(place / "notify"))
    notified.settimeout(60)
    command = [sys.executable, "-m", "fedge_agent.cli", "--config", str(place / "agent.toml")]
    script = [sys.executable, "-c", "import sys; from fedge_agent.cli import main; sys.exit(main())", *command[3:]]
    environment = os.environ | {"NOTIFY_SOCKET": str(place / "notify")}

    def until(words):
        while words not in (found := notified.recv(4096).decode()):
            assert "STOPPING" not in found
        return found

    with subprocess.Popen([*script, "run"], env=environment) as daemon:
        try:
            until("READY=1")
            done = subprocess.run([*script, "leave", "--yes"], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            until("STATUS=not enrolled")
            assert daemon.poll() is None
            assert not is_member(ca, device)
            assert not (place / "state" / keys.IDENTITY_KEY).exists()
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(30)
    assert status == 0
    notified.close()


def test_a_leave_that_was_begun_keeps_the_daemon_and_a_new_enrolment_waiting(ca, place, capsys):
    state = place / "state"
    enroll(ca.token(), state)
    leave.begin(state, Leaving("", "", offline=True, discard_rewards=False))
    assert run(place, "enroll", ca.token()) == cli.EX_FAILED
    assert "fedge-agent leave, given again, finishes it" in capsys.readouterr().err
    found = waiting.obstacle(state, time.time())
    assert found is not None
    assert found[0] is waiting.Obstacle.LEAVING


@pytest.mark.parametrize(
    ("answer", "leaves"), [("", False), ("n", False), ("later", False), ("y", True), (" YES ", True)]
)
def test_the_owner_is_asked_and_only_a_yes_is_one(ca, place, answer: str, leaves: object):
    device = enroll(ca.token(), place / "state").device_id
    options = argparse.Namespace(yes=False, offline=False, discard_rewards=False, output="text")
    asked = []

    def ask(question: str) -> str:
        asked.append(question)
        return answer

    status = leave_command.leave_fleet(load(place / "agent.toml", {}), options, ask)
    assert (status == cli.EX_OK) is leaves
    assert len(asked) == 1
    assert is_member(ca, device) is not leaves
    assert ("identity.key" in names(place / "state")) is not leaves
