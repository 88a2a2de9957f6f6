import os
import subprocess
from pathlib import Path

import pytest

from fedge_coordinator.enrolment import broker
from fedge_coordinator.enrolment.errors import BrokerError

DEPLOY = Path(__file__).parents[4] / "deploy" / "mosquitto"


def render(folder: Path, **changes):
    paths = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "crl")}
    return broker.render(folder, port=8883, fleet="lab", **{**paths, **changes})


def test_the_configuration_leaves_no_way_in_without_a_certificate_of_the_fleet(tmp_path):
    lines = set(render(tmp_path).conf.read_text().splitlines())
    assert {
        "listener 8883 127.0.0.1",
        "tls_version tlsv1.3",
        "require_certificate true",
        "allow_anonymous false",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        f"crlfile {tmp_path.resolve()}/crl.pem",
        f"acl_file {tmp_path.resolve()}/acl",
    } <= lines
    assert len([line for line in lines if line.startswith("listener")]) == 1
    assert not any("$" in line for line in lines)


def test_a_listener_for_websockets_asks_for_the_same_as_the_other(tmp_path):
    text = render(tmp_path, websocket_port=443).conf.read_text()
    plain, web = (part.splitlines() for part in text.split("listener ")[1:])
    assert (plain[0], web[:2]) == ("8883 127.0.0.1", ["443 127.0.0.1", "protocol websockets"])
    asked = [line for line in web[2:] if line]
    assert len(asked) == 8
    assert set(asked) <= set(plain)


def mosquitto(tmp_path, says):
    program = tmp_path / "mosquitto"
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit 3\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("version", ["2.0.11", "2.0.21", "1.6.10"])
def test_a_mosquitto_that_crashes_over_websockets_is_refused_with_the_cure(tmp_path, version):
    with pytest.raises(BrokerError, match=rf"mosquitto {version} crashes.*2\.1\.2.*mqtts://HOST:443"):
        broker.require_websockets(mosquitto(tmp_path, f"mosquitto version {version}"))
    with pytest.raises(BrokerError):
        broker.require_websockets(mosquitto(tmp_path, "nothing known"))


def test_a_mosquitto_that_is_new_enough_or_elsewhere_is_taken(tmp_path):
    broker.require_websockets(None)
    for version in ("2.1.2", "2.2.0", "3.0.0"):
        broker.require_websockets(mosquitto(tmp_path, f"mosquitto version {version}"))


def test_a_revoked_device_is_denied_everything_before_the_patterns_are_looked_at(tmp_path):
    files = render(tmp_path, revoked=["a" * 32, "b" * 32])
    text = files.acl.read_text()
    for device_id in ("a" * 32, "b" * 32):
        assert f"user {device_id}\ntopic deny #\n" in text
    assert text.index("user " + "b" * 32) < text.index("pattern ")


def test_rendering_again_changes_nothing_else(tmp_path):
    first = render(tmp_path).conf.read_bytes()
    assert render(tmp_path).conf.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acl", "data", "mosquitto.conf"]


def test_a_path_that_would_write_another_line_is_refused(tmp_path):
    with pytest.raises(BrokerError, match="another directory"):
        render(tmp_path, ca=tmp_path / "x\nallow_anonymous true")


def test_a_stale_pid_file_never_hits_another_process(tmp_path):
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(BrokerError, match="not mosquitto"):
        broker.reload(broker.read_pid(tmp_path / "pid"))
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(BrokerError, match="no process"):
        broker.reload(ended.pid)


@pytest.mark.parametrize("content", [None, "", "mosquitto"])
def test_a_pid_file_without_a_number_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "pid").write_text(content)
    with pytest.raises(BrokerError, match="is the broker running"):
        broker.read_pid(tmp_path / "pid")


@pytest.mark.parametrize("name", ["mosquitto.conf.template", "acl.template", "websockets.conf.template"])
def test_the_templates_in_deploy_are_the_packages_own(name):
    package = Path(broker.__file__).parent / "mosquitto" / name
    assert (DEPLOY / name).read_bytes() == package.read_bytes()
