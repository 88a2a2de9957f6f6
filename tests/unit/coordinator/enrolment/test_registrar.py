from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_coordinator.enrolment.errors import NotFoundError
from fedge_coordinator.enrolment.registrar import Registrar
from fedge_coordinator.enrolment.tables import open_database
from fedge_protocol.certificates import Role
from fedge_protocol.enrolment import EnrolmentReason, EnrolmentRefusedError, FleetInfo
from fedge_protocol.membership import Change, empty_log, verify_extends, verify_head

DAY_S = 86400


def reason(call, *arguments) -> EnrolmentReason:
    with pytest.raises(EnrolmentRefusedError) as refusal:
        call(*arguments)
    assert refusal.value.cure
    return refusal.value.reason


def test_the_same_token_and_request_get_the_same_certificate_and_burn_one_use(office):
    asked = office.enrol_request(office.token(uses=2))
    assert office.registrar.enrol(asked) == office.registrar.enrol(asked)
    assert office.registrar.list_tokens()[0].uses_left == 1
    assert len(office.registrar.devices()) == 1


def test_a_lost_answer_is_given_again_after_the_token_expired_or_was_revoked(office):
    secret = office.token(ttl_s=60)
    asked = office.enrol_request(secret)
    first = office.registrar.enrol(asked)
    office.clock.now += 61
    office.registrar.revoke_token(office.registrar.list_tokens()[0].id)
    assert office.registrar.enrol(asked).certificate == first.certificate


def test_a_lost_answer_is_not_given_again_to_a_revoked_device(office):
    asked = office.enrol_request(office.token())
    office.registrar.enrol(asked)
    office.registrar.revoke(office.registrar.devices()[0].device_id)
    assert reason(office.registrar.enrol, asked) is EnrolmentReason.DEVICE_REVOKED


def test_a_token_ends_at_its_second(office):
    secret = office.token(ttl_s=60)
    office.clock.now += 59
    asked = office.enrol_request(secret)
    office.clock.now += 1
    assert reason(office.registrar.enrol, asked) is EnrolmentReason.TOKEN_EXPIRED
    office.clock.now -= 1
    assert office.registrar.enrol(asked).certificate


def test_a_refused_request_does_not_burn_the_token(office, make_device):
    secret = office.token()
    wrong = office.enrol_request(secret, fleet=FleetInfo("lab", 1, bytes(20), int(office.clock.now)))
    assert reason(office.registrar.enrol, wrong) is EnrolmentReason.WRONG_CHAIN
    assert office.registrar.list_tokens()[0].uses_left == 1
    assert office.registrar.enrol(office.enrol_request(secret)).certificate


def test_a_fleet_without_a_coordinator_enrols_nobody_and_burns_nothing(office):
    office.registrar.revoke("coordinator.lab")
    assert reason(office.registrar.enrol, office.enrol_request(office.token())) is EnrolmentReason.NO_COORDINATOR
    assert office.registrar.devices() == []
    assert office.registrar.list_tokens()[0].uses_left == 1


def test_devices_pin_the_newest_coordinator_and_trust_its_jobs_by_default(office):
    office.clock.now += 1
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    newest = office.registrar.issue_service(Role.COORDINATOR, [], key)
    answer = office.registrar.enrol(office.enrol_request(office.token()))
    assert answer.coordinator == newest.public_bytes(serialization.Encoding.DER)
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert answer.job_signers == (spki,)


def test_of_many_devices_at_once_only_as_many_enrol_as_the_token_allows(office):
    secret = office.token(uses=3)
    asked = [office.enrol_request(secret) for _ in range(8)]

    def attempt(one) -> str:
        try:
            office.registrar.enrol(one)
        except EnrolmentRefusedError as refusal:
            return refusal.reason.value
        return "enrolled"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(attempt, asked))
    assert outcomes == ["enrolled"] * 3 + ["token-used"] * 5
    assert len(office.registrar.devices()) == 3


def test_every_change_of_membership_is_in_the_log_in_its_order(office, make_device):
    identity = make_device()
    enrolled = office.registrar.enrol(office.enrol_request(office.token(), identity))
    successor = make_device(identity.chain_key)
    renewed = office.registrar.renew(enrolled.certificate, office.renew_request(successor))
    office.registrar.revoke(successor.device_id)
    page = office.registrar.page(0)
    key = office.authority.certificate.public_key()
    verify_head(page.head, key=key, fleet="lab")
    verify_extends(empty_log("lab", office.authority.sha256), page.entries, page.head)
    verify_extends(enrolled.head, page.entries[1:], page.head)
    assert [(entry.change, entry.device_id, entry.replaces) for entry in page.entries] == [
        (Change.ADDED, identity.device_id, ""),
        (Change.RENEWED, successor.device_id, identity.device_id),
        (Change.REVOKED, successor.device_id, ""),
    ]
    assert [entry.certificate for entry in page.entries] == [enrolled.certificate, renewed.certificate, b""]


def test_revoking_again_adds_nothing_and_revoking_a_stranger_is_named(office):
    office.registrar.enrol(office.enrol_request(office.token()))
    device_id = office.registrar.devices()[0].device_id
    assert office.registrar.revoke(device_id) == [device_id]
    assert office.registrar.revoke(device_id) == []
    assert office.registrar.page(0).head.seq == 2
    with pytest.raises(NotFoundError):
        office.registrar.revoke("f" * 32)


def test_the_revocation_list_names_revoked_certificates_until_they_expire(office):
    answer = office.registrar.enrol(office.enrol_request(office.token()))
    certificate = x509.load_der_x509_certificate(answer.certificate)
    device_id = office.registrar.devices()[0].device_id

    def listed() -> tuple[bool, int]:
        crl = x509.load_pem_x509_crl(office.registrar.crl_pem())
        assert crl.is_signature_valid(office.authority.certificate.public_key())
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None, number

    assert listed() == (False, 0)
    office.registrar.revoke(device_id)
    assert listed() == (True, 1)
    assert office.registrar.revoked_devices() == [device_id]
    office.clock.now += 91 * DAY_S
    assert listed() == (False, 1)
    assert office.registrar.revoked_devices() == []


def test_a_renewal_may_not_change_the_chain_address(office, make_device):
    identity = make_device()
    enrolled = office.registrar.enrol(office.enrol_request(office.token(), identity))
    other = make_device()
    stolen = office.renew_request(type(identity).of(identity.key, other.chain_key))
    assert reason(office.registrar.renew, enrolled.certificate, stolen) is EnrolmentReason.BAD_BINDING


def test_a_renewal_may_change_who_is_paid(office, make_device):
    identity = make_device()
    enrolled = office.registrar.enrol(office.enrol_request(office.token(), identity))
    office.registrar.renew(enrolled.certificate, office.renew_request(identity, payout=b"\x0a" * 20))
    assert office.registrar.devices()[0].payout.lower() == "0x" + "0a" * 20


def test_who_renews_must_show_a_valid_certificate_of_a_present_member(office, make_device):
    identity = make_device()
    enrolled = office.registrar.enrol(office.enrol_request(office.token(), identity))
    asked = office.renew_request(identity)
    coordinator = enrolled.coordinator
    assert reason(office.registrar.renew, None, asked) is EnrolmentReason.NO_CERTIFICATE
    assert reason(office.registrar.renew, coordinator, asked) is EnrolmentReason.NO_CERTIFICATE
    successor = make_device(identity.chain_key)
    office.registrar.renew(enrolled.certificate, office.renew_request(successor))
    assert reason(office.registrar.renew, enrolled.certificate, asked) is EnrolmentReason.DEVICE_REVOKED
    office.clock.now += 91 * DAY_S
    assert reason(office.registrar.renew, enrolled.certificate, asked) is EnrolmentReason.NO_CERTIFICATE


def test_a_member_may_take_over_the_chain_address_of_an_expired_device_but_of_no_present_one(office, make_device):
    first = make_device()
    office.registrar.enrol(office.enrol_request(office.token(), first))
    second = make_device(first.chain_key)
    asked = office.enrol_request(office.token(), second)
    assert reason(office.registrar.enrol, asked) is EnrolmentReason.CHAIN_ADDRESS_IN_USE
    office.clock.now += 91 * DAY_S
    later = office.enrol_request(office.token(), second)
    assert office.registrar.enrol(later).certificate


def test_an_expired_member_comes_back_with_a_new_token_and_the_same_key(office, make_device):
    identity = make_device()
    office.registrar.enrol(office.enrol_request(office.token(), identity))
    office.clock.now += 91 * DAY_S
    office.registrar.enrol(office.enrol_request(office.token(), identity))
    assert [entry.change for entry in office.registrar.page(0).entries] == [Change.ADDED, Change.RENEWED]


def test_only_the_coordinator_and_members_read_the_log(office):
    answer = office.registrar.enrol(office.enrol_request(office.token()))
    office.registrar.require_reader(answer.certificate)
    office.registrar.require_reader(answer.coordinator)
    for stranger in (None, b"", office.authority.der):
        assert reason(office.registrar.require_reader, stranger) is EnrolmentReason.NO_CERTIFICATE
    office.registrar.revoke("coordinator.lab")
    assert reason(office.registrar.require_reader, answer.coordinator) is EnrolmentReason.DEVICE_REVOKED


def test_everything_is_still_known_to_another_process(office, tmp_path):
    asked = office.enrol_request(office.token())
    first = office.registrar.enrol(asked)
    again = Registrar(open_database(tmp_path / "ca.db"), office.authority, office.settings, office.clock)
    assert again.enrol(asked) == first
