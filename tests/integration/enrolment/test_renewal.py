import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedge_agent.identity import ca_client, keys, record
from fedge_agent.identity.enroll import enroll
from fedge_agent.identity.errors import CaUnreachableError, RefusedByCaError
from fedge_agent.identity.renewal import renew
from fedge_coordinator.enrolment.errors import MembershipUnavailableError
from fedge_coordinator.enrolment.members import HttpsSource, Members, open_members
from fedge_protocol.enrolment import PATH_FLEET, PATH_RENEW, EnrolmentReason, FleetInfo
from fedge_protocol.membership import Change, Entry, LogFault, LogRefusedError, Page


def test_renewal_is_due_at_two_thirds_of_the_life(device):
    life_s = device.device.not_after - device.not_before
    assert device.not_before + life_s * 0.66 < device.renew_at() < device.not_before + life_s * 0.67


def test_a_renewal_with_the_same_key_keeps_the_id_and_brings_a_new_certificate(ca, device):
    renewed = renew(device.folder, rotate_key=False)
    assert renewed.device_id == device.device_id
    assert renewed.record.answer.certificate != device.record.answer.certificate
    assert renewed.record.answer.head.seq == device.record.answer.head.seq + 1


def test_a_renewal_with_a_new_key_replaces_the_device_and_keeps_the_chain_address(ca, device):
    renewed = renew(device.folder, rotate_key=True)
    assert renewed.device_id != device.device_id == ca.device(device.device_id).device_id
    assert keys.load(device.folder).device_id == renewed.device_id
    assert ca.device(device.device_id).replaced_by == renewed.device_id
    assert renewed.device.chain_address == device.device.chain_address
    assert renew(device.folder, rotate_key=False).device_id == renewed.device_id


@pytest.mark.parametrize("rotate_key", [False, True])
def test_a_lost_answer_to_a_renewal_is_given_again_after_a_power_loss(ca, device, monkeypatch, rotate_key):
    ask, answers = ca_client._ask, []

    def losing(url, context, way, method, path, body=None):
        answer = ask(url, context, way, method, path, body)
        if path == PATH_RENEW:
            answers.append(answer)
            if len(answers) == 1:
                raise PowerLossError
        return answer

    monkeypatch.setattr(ca_client, "_ask", losing)
    with pytest.raises(PowerLossError):
        renew(device.folder, rotate_key=rotate_key)
    assert record.load(device.folder).device_id == device.device_id
    renew(device.folder, rotate_key=rotate_key)
    assert answers[0] == answers[1]


class PowerLossError(Exception):
    """The machine went off."""


def test_a_revoked_device_cannot_renew(ca, device):
    with ca.desk() as desk:
        desk.revoke(device.device_id)
    with pytest.raises(RefusedByCaError) as refusal:
        renew(device.folder, rotate_key=False)
    assert refusal.value.reason == EnrolmentReason.DEVICE_REVOKED


def test_a_revoked_device_cannot_come_back_with_another_token(ca, device):
    with ca.desk() as desk:
        desk.revoke(device.device_id)
    with pytest.raises(RefusedByCaError, match="device-revoked"):
        enroll(ca.token(), device.folder, again=True)


def test_without_a_certificate_nobody_renews_or_reads_the_log(ca, device):
    context = ssl.create_default_context(cafile=str(device.ca_file))
    connection = http.client.HTTPSConnection("localhost", ca.port, context=context, timeout=20)
    connection.request("GET", "/v1/membership")
    answer = connection.getresponse()
    assert (answer.status, b"no-certificate" in answer.read()) == (401, True)


def test_another_fleets_certificate_fails_in_the_handshake(ca, make_ca, tmp_path):
    stranger = enroll(make_ca("other").token(), tmp_path / "stranger")
    own = enroll(ca.token(), tmp_path / "own")
    client = ca_client.CaClient(
        own.record.url, own.record.answer.ca, chain=(stranger.certificate_file, stranger.key_file)
    )
    with pytest.raises(CaUnreachableError, match=r"(?i)unknown.ca|closed|reset|eof"):
        client.get(PATH_FLEET, FleetInfo)


@asynccontextmanager
async def following(ca, folder: Path, changes: asyncio.Queue[Entry]) -> AsyncIterator[Members]:
    members = open_members(folder, ca=ca.folder / "ca.pem", fleet="lab", clock=ca.clock, on_change=changes.put_nowait)
    source = HttpsSource(
        f"https://localhost:{ca.port}",
        ca=ca.folder / "ca.pem",
        cert=ca.coordinator / "cert.pem",
        key=ca.coordinator / "key.pem",
    )
    task = asyncio.create_task(members.follow(source))
    yield members
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source.close()


async def next_of(changes: asyncio.Queue[Entry], device_id: str, change: Change) -> Entry:
    while True:
        entry = await asyncio.wait_for(changes.get(), 30)
        if (entry.device_id, entry.change) == (device_id, change):
            return entry


async def test_the_coordinator_learns_of_members_renewals_and_revocations_as_they_happen(ca, tmp_path):
    changes: asyncio.Queue[Entry] = asyncio.Queue()
    async with following(ca, tmp_path, changes) as members:
        device = await asyncio.to_thread(enroll, ca.token(), tmp_path / "d")
        await next_of(changes, device.device_id, Change.ADDED)
        member = members.get(device.device_id)
        assert member is not None
        assert member.certificate == device.record.answer.certificate
        renewed = await asyncio.to_thread(renew, tmp_path / "d", rotate_key=True)
        assert (await next_of(changes, renewed.device_id, Change.RENEWED)).replaces == device.device_id
        assert members.get(device.device_id) is None
        with ca.desk() as desk:
            await asyncio.to_thread(desk.revoke, renewed.device_id)
        await next_of(changes, renewed.device_id, Change.REVOKED)
        assert members.get(renewed.device_id) is None


async def test_a_restarted_coordinator_knows_the_members_while_the_ca_is_down(ca, tmp_path):
    changes: asyncio.Queue[Entry] = asyncio.Queue()
    device = await asyncio.to_thread(enroll, ca.token(), tmp_path / "d")
    gone = await asyncio.to_thread(enroll, ca.token(), tmp_path / "gone")
    with ca.desk() as desk:
        await asyncio.to_thread(desk.revoke, gone.device_id)
    async with following(ca, tmp_path, changes) as members:
        await next_of(changes, gone.device_id, Change.REVOKED)
        known = members.all()
    ca.stop()
    try:
        again = open_members(tmp_path, ca=ca.folder / "ca.pem", fleet="lab", clock=ca.clock)
        assert [member.device_id for member in again.all()] == [member.device_id for member in known]
        assert again.get(device.device_id) is not None
        assert again.get(gone.device_id) is None
    finally:
        ca.start()


async def test_following_goes_on_when_the_ca_comes_back(ca, tmp_path):
    changes: asyncio.Queue[Entry] = asyncio.Queue()
    ca.stop()
    async with following(ca, tmp_path, changes) as members:
        ca.start()
        device = await asyncio.to_thread(enroll, ca.token(), tmp_path / "d")
        await next_of(changes, device.device_id, Change.ADDED)
        assert members.get(device.device_id) is not None


async def test_a_log_that_became_another_is_refused_and_the_known_one_stays(ca, tmp_path):
    """A CA restored from an old backup, or one that shows this coordinator another fleet, is not believed."""
    changes: asyncio.Queue[Entry] = asyncio.Queue()
    device = await asyncio.to_thread(enroll, ca.token(), tmp_path / "d")
    async with following(ca, tmp_path, changes) as members:
        await next_of(changes, device.device_id, Change.ADDED)

    class Restored:
        async def page(self, after: int) -> Page:
            return Page((), device.record.answer.head)

    later = await asyncio.to_thread(renew, device.folder, rotate_key=False)
    async with following(ca, tmp_path, changes) as members:
        await next_of(changes, later.device_id, Change.RENEWED)
    with pytest.raises(LogRefusedError) as refusal:
        await members.follow(Restored())
    assert refusal.value.fault is LogFault.TRUNCATED
    assert members.get(device.device_id) is not None


async def test_a_device_that_is_revoked_no_longer_reads_the_log(ca, device):
    source = HttpsSource(
        f"https://localhost:{ca.port}", ca=device.ca_file, cert=device.certificate_file, key=device.key_file
    )
    assert (await source.page(0)).entries
    with ca.desk() as desk:
        await asyncio.to_thread(desk.revoke, device.device_id)
    with pytest.raises(MembershipUnavailableError, match="device-revoked"):
        await source.page(0)
    await source.close()
