import datetime as dt
import signal
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent import waiting
from fedge_agent.waiting import Obstacle

BEGIN = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def enrolled(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + dt.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "device.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "identity.json").write_bytes(b"{}")
    return tmp_path


def found(folder, now):
    obstacle = waiting.obstacle(folder, now)
    assert obstacle is not None
    return obstacle


def test_a_device_without_enrolment_is_told_how_to_enrol(tmp_path):
    kind, line = found(tmp_path, 0.0)
    assert kind is Obstacle.NOT_ENROLLED
    assert "fedge-agent enroll TOKEN" in line


def test_a_clock_before_the_certificate_waits_for_time_synchronisation(enrolled):
    kind, line = found(enrolled, 0.0)
    assert kind is Obstacle.CLOCK
    assert "1970-01-01 00:00:00 UTC" in line
    assert "waiting for time synchronisation" in line


def test_nothing_stands_in_the_way_of_an_enrolled_device_with_a_right_clock(enrolled):
    assert waiting.obstacle(enrolled, BEGIN.timestamp()) is None


def test_a_damaged_certificate_is_left_to_the_daemon(enrolled):
    (enrolled / "device.pem").write_bytes(b"garbage")
    assert waiting.obstacle(enrolled, 0.0) is None


def test_each_obstacle_is_said_once_however_long_it_lasts_and_the_watchdog_is_fed(enrolled):
    (enrolled / "identity.json").rename(enrolled / "later")
    notes: list[str] = []
    looks = iter(range(20))

    def sleep(_seconds):
        if next(looks) == 9:
            (enrolled / "later").rename(enrolled / "identity.json")
        return False

    times = iter([0.0] * 15 + [BEGIN.timestamp()] * 9)
    assert waiting.until_clear(enrolled, notify=notes.append, clock=lambda: next(times), sleep=sleep)
    ready = [note for note in notes if note.startswith("READY=1")]
    assert len(ready) == 2
    assert "enroll TOKEN" in ready[0]
    assert "time synchronisation" in ready[1]
    assert notes.count("WATCHDOG=1") == 15


def test_a_waiting_daemon_stops_when_systemd_asks(tmp_path):
    (tmp_path / "agent.toml").write_text(f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n')
    script = "import sys; from fedge_agent.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "--config", str(tmp_path / "agent.toml"), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=30)
        rest = process.stderr.read()
    assert "not enrolled: fedge-agent enroll TOKEN" in said
    assert status == 0
    assert rest == ""
