import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fedge_coordinator.api.app import MAX_BODY_BYTES
from fedge_coordinator.api.server import SocketUnavailableError, listen_private
from fedge_coordinator.api.views import Event
from fedge_coordinator.store.jobs import Progress
from fedge_coordinator.store.journal import RoundKey, RoundStatus
from fedge_protocol.jobspec import canonical, parse

Document = dict[str, Any]


async def test_only_the_owner_may_open_the_socket(api):
    assert api.socket.stat().st_mode & 0o777 == 0o600


async def test_a_document_is_created_once_and_then_unchanged(api, document: Document):
    async with api.client() as client:
        first = await client.put("/v1/jobs/digits", content=json.dumps(document))
        second = await client.put("/v1/jobs/digits", content=json.dumps(document))
        shown = (await client.get("/v1/jobs/digits")).json()
    assert (first.status_code, first.json()["outcome"], second.json()["outcome"]) == (200, "created", "unchanged")
    assert first.json()["warnings"] == ["cohort of 3 is below the secure floor of 16"]
    assert shown["belowSecureFloor"] is True
    assert canonical(parse(shown["document"])) == canonical(parse(document))
    assert api.changed == ["digits"]


async def test_a_dry_run_changes_nothing(api, document: Document):
    async with api.client() as client:
        answer = await client.put("/v1/jobs/digits?dryRun=true", content=json.dumps(document))
        assert (answer.json()["outcome"], answer.json()["dryRun"]) == ("created", True)
        assert (await client.get("/v1/jobs")).json() == []
    assert api.changed == []


async def test_an_invalid_document_is_a_problem_that_lists_every_fault(api, document: Document):
    document["spec"]["training"] |= {"epochs": 0, "epochz": 1}
    async with api.client() as client:
        answer = await client.put("/v1/jobs/digits", content=json.dumps(document))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:fedge:problem:invalid-document"
    assert [fault["path"] for fault in answer.json()["faults"]] == ["spec.training.epochs", "spec.training.epochz"]


async def test_a_model_that_cannot_be_built_is_refused_with_its_path(api, document: Document):
    document["spec"]["model"]["layers"] = [{"dense": 10, "activation": "magic"}]
    async with api.client() as client:
        answer = await client.put("/v1/jobs/digits", content=json.dumps(document))
    assert answer.status_code == 422
    assert "model.layers[0].activation" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("PUT", "/v1/jobs/digits", b"{", 400),
        ("PUT", "/v1/jobs/digits", b"\xff", 400),
        ("PUT", "/v1/jobs/digits", b"[" * 5000, 400),
        ("PUT", "/v1/jobs/digits", b" " * (MAX_BODY_BYTES + 1), 413),
        ("PUT", "/v1/jobs/digits?dryRun=maybe", None, 400),
        ("PUT", "/v1/jobs/other", None, 400),
        ("GET", "/v1/jobs/unknown", b"", 404),
        ("GET", "/v1/rounds?job=unknown", b"", 404),
        ("GET", "/v1/devices/unknown", b"", 404),
        ("POST", "/v1/jobs/unknown/pause", b"", 404),
        ("POST", "/v1/jobs/unknown/explode", b"", 404),
        ("GET", "/v1/nothing", b"", 404),
        ("DELETE", "/v1/jobs", b"", 405),
        ("GET", "/v1/events?after=soon", b"", 400),
    ],
)
async def test_every_refusal_is_a_problem_with_a_cure(
    api, document: Document, method: str, path: str, content: bytes | None, status: int
):
    body = json.dumps(document).encode() if content is None else content
    async with api.client() as client:
        answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["cure"]


async def test_a_started_job_keeps_its_model(api, document: Document):
    changed = copy.deepcopy(document)
    changed["spec"]["model"]["seed"] = 5
    async with api.client() as client:
        await client.put("/v1/jobs/digits", content=json.dumps(document))
        api.store.jobs.start("digits", b"g" * 32, b"w" * 32)
        answer = await client.put("/v1/jobs/digits", content=json.dumps(changed))
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:fedge:problem:model-changed")


async def test_a_job_is_paused_resumed_and_cancelled(api, document: Document):
    async with api.client() as client:
        await client.put("/v1/jobs/digits", content=json.dumps(document))
        api.store.jobs.start("digits", b"g" * 32, b"w" * 32)
        statuses = [
            (await client.post(f"/v1/jobs/digits/{action}")).json()["status"]
            for action in ("pause", "pause", "resume", "cancel")
        ]
        again = await client.post("/v1/jobs/digits/resume")
    assert statuses == ["paused", "paused", "running", "cancelled"]
    assert again.status_code == 409
    assert api.changed == ["digits"] * 4


async def test_rounds_and_checkpoints_come_from_the_store(api, document: Document):
    key, failed = RoundKey("digits", 1, 1), RoundKey("digits", 1, 0)
    api.store.jobs.apply(parse(document))
    api.store.jobs.start("digits", b"g" * 32, b"w" * 32)
    api.store.journal.open(failed, b"plan")
    api.store.journal.finish(failed, RoundStatus.ABORTED, b"")
    api.store.journal.open(key, b"plan")
    with api.store.transaction():
        api.store.journal.finish(key, RoundStatus.FINISHED, b"record")
        api.store.jobs.advance(Progress("digits", 1, 1, 5_000, 7, 1, 900, {"accuracy": 0.75}), b"n" * 32)
    async with api.client() as client:
        rounds = (await client.get("/v1/rounds?job=digits")).json()
        checkpoints = (await client.get("/v1/checkpoints")).json()
        rewards = (await client.get("/v1/rewards")).json()
    assert [(each["attempt"], each["status"], each["participants"]) for each in rounds] == [
        (0, "aborted", None),
        (1, "finished", 7),
    ]
    assert rounds[1]["belowSecureFloor"] is True
    assert (checkpoints[0]["weights"], checkpoints[0]["participants"]) == ((b"n" * 32).hex(), 7)
    assert rewards == []


async def test_devices_show_their_last_refusal_and_prekeys(api):
    device = "ab" * 16
    api.store.devices.presence(device, online=True, version="0.1", missing_features=2)
    api.store.devices.refused(device, "not-admitted", "temperature")
    api.store.prekeys.add(device, [(1, b"one"), (2, b"two")])
    async with api.client() as client:
        (listed,) = (await client.get("/v1/devices")).json()
        shown = (await client.get(f"/v1/devices/{device}")).json()
    assert listed == shown
    assert (shown["prekeysFresh"], shown["refusal"]["reason"]) == (2, "not-admitted")


async def test_only_a_device_that_was_a_duplicate_makes_an_event_when_it_is_accepted(api):
    device = "ab" * 16
    api.store.devices.presence(device, online=True, version="0.1", missing_features=2)
    api.store.sessions.mark(device, "behind")
    events = api.hub.watch(None)
    async with api.client() as client:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        shown = (await client.get(f"/v1/devices/{device}")).json()
        for _ in range(2):
            assert (await client.post(f"/v1/devices/{device}/accept")).json()["duplicate"] is None
        assert (await client.post("/v1/devices/unknown/accept")).status_code == 404
    assert shown["duplicate"]["reason"] == "behind"
    event = await waiting
    assert (event.name, event.fields) == ("device-accepted", {"device": device})


async def test_events_stream_with_ids_kinds_and_keepalives(api):
    lines: list[str] = []
    async with api.client() as client, client.stream("GET", "/v1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            lines.append(line)
            if line == ": watching":
                api.hub.publish(Event("input", 5, {"job": "digits", "phase": "shares"}))
            if ": still here" in lines and any(each.startswith("data:") for each in lines):
                break
    assert "id: 1" in lines
    assert "event: input" in lines
    (data,) = [line for line in lines if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["fields"]["phase"] == "shares"


async def test_an_event_stream_resumes_and_ends_when_the_coordinator_stops(api):
    for detail in ("a", "b"):
        api.hub.publish(Event("input", 5, {"phase": detail}))
    async with api.client() as client, client.stream("GET", "/v1/events", headers={"Last-Event-ID": "1"}) as stream:
        received = []
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                received.append(json.loads(line.removeprefix("data: "))["fields"]["phase"])
                api.hub.close()
    assert received == ["b"]


async def test_a_watcher_that_goes_away_is_forgotten(api):
    async with api.client() as client, client.stream("GET", "/v1/events") as stream:
        async for _ in stream.aiter_lines():
            break
    for _ in range(200):
        if not api.hub._watchers:
            break
        await asyncio.sleep(0.02)
    assert not api.hub._watchers


def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path):
    listen_private(tmp_path / "api.sock").close()
    assert (tmp_path / "api.sock").is_socket()
    with listen_private(tmp_path / "api.sock"):
        assert (tmp_path / "api.sock").is_socket()


async def test_a_second_coordinator_does_not_take_the_socket_over(api):
    with pytest.raises(SocketUnavailableError, match="another coordinator"):
        listen_private(api.socket)


def test_a_file_in_the_way_is_not_deleted(tmp_path: Path):
    (tmp_path / "api.sock").write_text("precious")
    with pytest.raises(SocketUnavailableError, match="no socket"):
        listen_private(tmp_path / "api.sock")
    assert (tmp_path / "api.sock").read_text() == "precious"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(SocketUnavailableError, match="nowhere"):
        listen_private(tmp_path / "nowhere" / "api.sock")
