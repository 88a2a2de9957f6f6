import http.client
import os
import signal
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity import ca_client, keys, record
from fedge_agent.identity.enroll import enroll
from fedge_agent.identity.errors import (
    AlreadyEnrolledError,
    CaUnreachableError,
    CaUntrustedError,
    ClockError,
    RefusedByCaError,
    TokenError,
)
from fedge_protocol import cose
from fedge_protocol.certificates import load_fleet_ca, verify_device_certificate
from fedge_protocol.enrolment import PATH_ENROL, EnrolmentReason, Token, parse_token


def no_sleep(_: float) -> None:
    """Retries at once."""


class PowerLossError(Exception):
    """The machine went off."""


def test_a_device_enrols_and_its_certificate_names_its_key_and_both_addresses(ca, tmp_path):
    payout = bytes(range(20))
    enrolment = enroll(ca.token(), tmp_path / "d", payout)
    identity = keys.load(tmp_path / "d")
    found = verify_device_certificate(
        enrolment.record.answer.certificate,
        ca=load_fleet_ca(enrolment.record.answer.ca, fleet="lab"),
        fleet="lab",
        now=enrolment.record.enrolled_at,
        check_binding=True,
    )
    assert (found.device_id, found.chain_address, found.payout) == (identity.device_id, identity.chain_address, payout)
    assert enrolment.broker_url == f"mqtts://localhost:{ca.broker_port}"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "d").iterdir()}
    assert set(modes.values()) == {0o600}
    assert not list((tmp_path / "d").glob("pending*"))


def test_the_coordinators_key_that_the_device_pins_is_the_one_that_was_issued(ca, device):
    issued = serialization.load_pem_private_key((ca.coordinator / "key.pem").read_bytes(), None)
    assert isinstance(issued, ec.EllipticCurvePrivateKey)
    context = cose.context_of("lab", "coordinator", "offer")
    assert cose.verify(cose.sign(issued, b"body", context), device.coordinator_key, context) == b"body"


def test_the_same_token_again_returns_the_same_enrolment(ca, tmp_path):
    token = ca.token()
    first = enroll(token, tmp_path / "d")
    assert enroll(token, tmp_path / "d").record == first.record


def test_after_a_power_loss_at_any_write_the_same_command_completes_the_same_enrolment(ca, tmp_path, monkeypatch):
    fsync, survived = os.fsync, 0
    for allowed in range(100):
        folder, token, left = tmp_path / str(allowed), ca.token(), [allowed]

        def failing(descriptor: int, left: list[int] = left) -> None:
            if left[0] == 0:
                raise PowerLossError
            left[0] -= 1
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            enroll(token, folder)
            break
        except PowerLossError:
            survived += 1
        finally:
            monkeypatch.setattr(os, "fsync", fsync)
        enrolment = enroll(token, folder)
        assert keys.load(folder).device_id == enrolment.device_id
        assert ca.issued(enrolment.device_id) == 1
    assert survived > 10


def test_a_lost_answer_is_given_again_also_when_the_ca_was_killed_in_between(ca, tmp_path, monkeypatch):
    token, folder, answers = ca.token(), tmp_path / "d", []
    ask = ca_client._ask

    def losing(url, context, way, method, path, body=None):
        answer = ask(url, context, way, method, path, body)
        if path == PATH_ENROL:
            answers.append(answer)
            if len(answers) == 1:
                ca.stop(signal.SIGKILL)
                ca.start()
                raise CaUnreachableError("the connection broke before the answer came")
        return answer

    monkeypatch.setattr(ca_client, "_ask", losing)
    enrolment = enroll(token, folder, sleep=no_sleep)
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert ca.issued(enrolment.device_id) == 1


def test_a_ca_that_is_down_is_named_and_the_same_command_succeeds_when_it_is_back(ca, tmp_path):
    token = ca.token()
    ca.stop()
    try:
        with pytest.raises(CaUnreachableError, match="give the same command again"):
            enroll(token, tmp_path / "d", sleep=no_sleep)
    finally:
        ca.start()
    assert enroll(token, tmp_path / "d").fleet == "lab"


def test_a_used_token_is_refused_for_another_device(ca, tmp_path):
    token = ca.token()
    enroll(token, tmp_path / "a")
    with pytest.raises(RefusedByCaError) as refusal:
        enroll(token, tmp_path / "b")
    assert refusal.value.reason == EnrolmentReason.TOKEN_USED
    assert "fedge-ca token create" in str(refusal.value)


def test_a_token_for_two_enrols_two_and_no_third(ca, tmp_path):
    token = ca.token(uses=2)
    assert enroll(token, tmp_path / "a").device_id != enroll(token, tmp_path / "b").device_id
    with pytest.raises(RefusedByCaError, match="token-used"):
        enroll(token, tmp_path / "c")


def test_a_revoked_token_is_refused(ca, tmp_path):
    token = ca.token()
    with ca.desk() as desk:
        desk.revoke_token(parse_token(token).secret_sha256().hex()[:12])
    with pytest.raises(RefusedByCaError, match="token-revoked"):
        enroll(token, tmp_path / "d")


def test_a_token_that_this_ca_never_made_is_refused(ca, tmp_path):
    token = parse_token(ca.token())
    forged = Token(token.url, token.fleet, token.ca_sha256, bytes(16)).text()
    with pytest.raises(RefusedByCaError, match="unknown-token"):
        enroll(forged, tmp_path / "d")


def test_an_expired_token_is_refused(ca, tmp_path):
    token = ca.token(ttl_s=1)
    expired = time.time() + 1.1
    while time.time() < expired:
        time.sleep(0.05)
    with pytest.raises(RefusedByCaError, match="token-expired"):
        enroll(token, tmp_path / "d")


def test_a_server_with_another_root_gets_no_secret(ca, make_ca, tmp_path, monkeypatch):
    impostor, token, sent = make_ca("evil"), parse_token(ca.token()), []
    diverted = Token(f"https://localhost:{impostor.port}", token.fleet, token.ca_sha256, token.secret).text()
    ask = ca_client._ask

    def listening(*arguments):
        sent.append(arguments[3:])
        return ask(*arguments)

    monkeypatch.setattr(ca_client, "_ask", listening)
    with pytest.raises(CaUntrustedError, match="somebody is between"):
        enroll(diverted, tmp_path / "d", sleep=no_sleep)
    assert sent == [("GET", "/v1/ca")]


def test_a_server_that_shows_the_right_root_and_does_not_hold_its_key_is_not_believed(ca, make_ca, tmp_path):
    impostor, token = make_ca("evil"), parse_token(ca.token())
    client = ca_client.CaClient(f"https://localhost:{impostor.port}", ca_client.fetch_ca(token.url, token.ca_sha256))
    with pytest.raises(CaUntrustedError, match="cannot prove"):
        client.get("/v1/fleet", object)


def test_an_enrolled_device_does_not_join_another_fleet_by_accident(device, make_ca):
    other = make_ca("other")
    with pytest.raises(AlreadyEnrolledError, match="of fleet 'lab'"):
        enroll(other.token(), device.folder)
    assert enroll(other.token(), device.folder, again=True).fleet == "other"


def test_a_device_with_a_wrong_clock_is_told_so(ca, tmp_path):
    with pytest.raises(ClockError, match="timedatectl"):
        enroll(ca.token(), tmp_path / "d", clock=lambda: time.time() - 3600)


@pytest.mark.parametrize("text", ["", "hello", "fedge1.", "fedge1.AAAA", "fedge2.pGN1"])
def test_what_is_no_token_is_named_before_anything_is_written(tmp_path, text):
    with pytest.raises(TokenError):
        enroll(text, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_two_devices_may_not_share_a_chain_address(ca, tmp_path):
    first = enroll(ca.token(), tmp_path / "a")
    copy_private(tmp_path / "a" / "chain.key", tmp_path / "b")
    with pytest.raises(RefusedByCaError, match=f"chain-address-in-use.*{first.device_id}"):
        enroll(ca.token(), tmp_path / "b")
    with ca.desk() as desk:
        desk.revoke(first.device_id)
    assert enroll(ca.token(), tmp_path / "b").device.chain_address == first.device.chain_address


def copy_private(source: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / source.name).write_bytes(source.read_bytes())
    (folder / source.name).chmod(0o600)


def test_the_ca_stops_at_sigterm_also_while_somebody_waits_for_news(ca, device):
    context = ssl.create_default_context(cafile=str(device.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    connection = http.client.HTTPSConnection("localhost", ca.port, context=context, timeout=30)
    connection.request("GET", f"/v1/membership?after={device.record.answer.head.seq}")
    try:
        assert ca.stop() == 0
        assert connection.getresponse().status == 200
    finally:
        ca.start()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", "/v1/enrol", b"{", 400, b"malformed"),
        ("POST", "/v1/enrol", b'{"secret":"AAAA"}', 400, b"malformed"),
        ("POST", "/v1/enrol", b"[" * 5000, 400, b"malformed"),
        ("POST", "/v1/enrol", bytes(17 * 1024), 413, b"oversized"),
        ("POST", "/v1/renew", b"{}", 400, b"malformed"),
        ("GET", "/v1/membership?after=-1", None, 400, b"malformed"),
        ("GET", "/v1/membership?after=99999999999999999999", None, 400, b"malformed"),
        ("GET", "/etc/passwd", None, 404, b"malformed"),
        ("GET", "/v1/enrol", None, 405, b"malformed"),
    ],
)
def test_hostile_requests_are_refused_by_name_and_the_ca_lives(ca, method, path, body, status, reason):
    context = ssl.create_default_context(cafile=str(ca.folder / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", ca.port, context=context, timeout=20)
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    assert (answer.status, reason in content) == (status, True), content


def test_neither_files_nor_logs_nor_listings_hold_a_tokens_secret(ca, tmp_path):
    token = ca.token()
    enroll(token, tmp_path / "d")
    with pytest.raises(RefusedByCaError):
        enroll(token, tmp_path / "e")
    secret = parse_token(token).secret
    files = [path.read_bytes() for folder in (ca.folder, tmp_path / "d") for path in folder.iterdir() if path.is_file()]
    assert len(files) > 10
    assert not any(secret in content or token.encode() in content for content in files)
    assert token not in ca.command("token", "list", "-o", "json")


def test_the_operators_socket_and_the_root_key_are_closed_to_others(ca):
    assert {(ca.folder / name).stat().st_mode & 0o777 for name in ("ca.sock", "ca.key", "ca.db")} == {0o600}
    assert ca.folder.stat().st_mode & 0o777 == 0o700


def test_a_command_works_on_the_files_when_the_ca_is_down_and_by_socket_when_it_runs(ca):
    ca.stop()
    try:
        offline = ca.command("token", "create", "--ttl", "7d", "--label", "made offline").strip()
    finally:
        ca.start()
    assert parse_token(offline).fleet == "lab"
    assert "made offline" in ca.command("token", "list", "-o", "json")


def test_record_is_read_after_its_certificate_expired(device):
    late = record.load(device.folder, lambda: device.device.not_after + 1e6)
    assert late.device_id == device.device_id
