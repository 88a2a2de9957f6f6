import signal
from collections.abc import Callable
from pathlib import Path

import pytest
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
from fedge_protocol.enrolment import PATH_ENROL, EnrolmentReason, parse_token


def no_sleep(_: float) -> None:
    """Retries at once."""


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
    assert enrolment.record.answer.head.seq == 1
    assert {(tmp_path / "d" / name).stat().st_mode & 0o777 for name in ("identity.key", "chain.key")} == {0o600}


def test_the_coordinators_key_that_the_device_pins_is_the_one_that_was_issued(device, tmp_path):
    from cryptography.hazmat.primitives import serialization

    issued = serialization.load_pem_private_key((tmp_path / "coordinator-lab" / "key.pem").read_bytes(), None)
    context = cose.context_of("lab", "coordinator", "offer")
    assert cose.verify(cose.sign(issued, b"body", context), device.coordinator_key, context) == b"body"  # type: ignore[arg-type]


def test_the_same_token_again_returns_the_same_enrolment(ca, tmp_path):
    token = ca.token()
    first = enroll(token, tmp_path / "d")
    assert enroll(token, tmp_path / "d").record == first.record


@pytest.mark.parametrize("kept", ["request", "answer", "half-installed"])
def test_a_crash_between_any_two_steps_is_continued_with_the_same_certificate(ca, tmp_path, kept):
    token, folder = ca.token(), tmp_path / "d"
    first = enroll(token, folder)
    asked = request_of(first, folder)
    # what a power loss after each fsync leaves behind
    (folder / record.RECORD).unlink()
    answered = record.Pending(asked, None if kept == "request" else first.record)
    record.write_pending(folder, answered)
    if kept != "half-installed":
        (folder / record.CERTIFICATE_PEM).unlink()
    assert enroll(token, folder).record.answer.certificate == first.record.answer.certificate
    assert not (folder / record.PENDING).exists()


def request_of(enrolment: record.Enrolment, folder: Path) -> record.Request:
    """The request is gone once installed; the CA's database still knows its answer by its hash, so keep it by hook."""
    return REQUESTS[enrolment.device_id]


REQUESTS: dict[str, record.Request] = {}


@pytest.fixture(autouse=True)
def _keep_requests(monkeypatch):
    write = record.write_pending

    def keeping(folder: Path, pending: record.Pending) -> None:
        REQUESTS[keys.load(folder).device_id] = pending.request
        write(folder, pending)

    monkeypatch.setattr(record, "write_pending", keeping)


def test_a_lost_answer_is_given_again_also_when_the_ca_was_killed_in_between(ca, tmp_path, monkeypatch):
    token, folder, answers = ca.token(), tmp_path / "d", []
    ask = ca_client._ask

    def losing(url, context, method, path, body=None):
        answer = ask(url, context, method, path, body)
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
    assert enrolment.record.answer.head.seq == 1


def test_a_ca_that_is_down_is_named_and_the_same_command_succeeds_when_it_is_back(make_ca, tmp_path):
    ca = make_ca(run=False)
    token = ca.token()
    with pytest.raises(CaUnreachableError, match="give the same command again"):
        enroll(token, tmp_path / "d", sleep=no_sleep)
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
    token = ca.token("--uses", "2")
    assert enroll(token, tmp_path / "a").device_id != enroll(token, tmp_path / "b").device_id
    with pytest.raises(RefusedByCaError, match="token-used"):
        enroll(token, tmp_path / "c")


def test_a_revoked_token_is_refused(ca, tmp_path):
    token = ca.token()
    ca.command("token", "revoke", parse_token(token).secret_sha256().hex()[:12])
    with pytest.raises(RefusedByCaError, match="token-revoked"):
        enroll(token, tmp_path / "d")


def test_a_token_that_this_ca_never_made_is_refused(ca, tmp_path):
    token = parse_token(ca.token())
    forged = type(token)(token.url, token.fleet, token.ca_sha256, bytes(16)).text()
    with pytest.raises(RefusedByCaError, match="unknown-token"):
        enroll(forged, tmp_path / "d")


def test_an_expired_token_is_refused_and_not_burned(ca, tmp_path):
    import time

    token = ca.token("--ttl", "1s")
    deadline = time.time() + 1.1
    while time.time() < deadline:
        time.sleep(0.05)
    with pytest.raises(RefusedByCaError, match="token-expired"):
        enroll(token, tmp_path / "d")


def test_a_server_with_another_root_gets_nothing_but_the_request_for_it(make_ca, tmp_path):
    real, impostor = make_ca("lab", run=False), make_ca("evil")
    token = parse_token(real.token())
    diverted = type(token)(f"https://localhost:{impostor.port}", token.fleet, token.ca_sha256, token.secret).text()
    with pytest.raises(CaUntrustedError, match="somebody is between"):
        enroll(diverted, tmp_path / "d", sleep=no_sleep)
    assert "POST" not in (impostor.folder / "ca.log").read_text()


def test_an_enrolled_device_does_not_join_another_fleet_by_accident(device, make_ca, tmp_path):
    other = make_ca("other")
    with pytest.raises(AlreadyEnrolledError, match="of fleet 'lab'"):
        enroll(other.token(), tmp_path / "device")
    assert enroll(other.token(), tmp_path / "device", again=True).fleet == "other"


def test_a_device_with_a_wrong_clock_is_told_so(ca, tmp_path):
    import time

    with pytest.raises(ClockError, match="timedatectl"):
        enroll(ca.token(), tmp_path / "d", clock=lambda: time.time() - 3600)


@pytest.mark.parametrize("text", ["", "hello", "fedge1.", "fedge1.AAAA", "fedge2.pGN1"])
def test_what_is_no_token_is_named_before_anything_is_written(tmp_path, text):
    with pytest.raises(TokenError):
        enroll(text, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_two_devices_may_not_share_a_chain_address(ca, tmp_path):
    first = enroll(ca.token(), tmp_path / "a")
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "chain.key").write_bytes((tmp_path / "a" / "chain.key").read_bytes())
    (tmp_path / "b" / "chain.key").chmod(0o600)
    with pytest.raises(RefusedByCaError, match=f"chain-address-in-use.*{first.device_id}"):
        enroll(ca.token(), tmp_path / "b")


def test_the_ca_stops_at_sigterm_also_while_somebody_waits_for_news(ca: object, tmp_path, device) -> None:
    import http.client
    import ssl

    context = ssl.create_default_context(cafile=str(device.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    connection = http.client.HTTPSConnection("localhost", ca.port, context=context, timeout=30)  # type: ignore[attr-defined]
    connection.request("GET", "/v1/membership?after=1")
    assert ca.stop() == 0  # type: ignore[attr-defined]
    assert connection.getresponse().status == 200


def test_tokens_are_listed_without_their_secrets_and_stored_as_hashes(ca, tmp_path: Path, make_ca: Callable[..., object]):
    token = ca.token("--label", "for the roof")
    listing = ca.command("token", "list", "-o", "json")
    assert "for the roof" in listing
    assert token not in listing
    secret = parse_token(token).secret
    files = [path.read_bytes() for path in ca.folder.iterdir() if path.is_file()]
    assert not any(secret in content or token.encode() in content for content in files)
