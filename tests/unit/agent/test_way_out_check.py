import ipaddress
import os

import pytest
from tests.unit.agent.test_daemon import enrol

from fedge_agent.config import Config, load
from fedge_agent.kernel.doctor import Check, Grade
from fedge_agent.kernel.endpoints import Resolved, boot_time_s, encoded
from fedge_agent.kernel.text_files import publish_text
from fedge_agent.way_out_check import check_way_out

ADDRESS = ipaddress.ip_address("192.0.2.1")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    enrol(tmp_path / "state", tmp_path / "ca.db", days_ago=0)

    def make(*lines: str) -> Config:
        path = tmp_path / "agent.toml"
        head = f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n[network]\n'
        path.write_text("\n".join([head, *lines, ""]))
        return load(path)

    return make


def checked(config: Config) -> Check:
    return check_way_out(config, owner_uid=os.geteuid())


def publish(tmp_path, host, port, *, until_s=3600, fresh_s=60):
    now_s = boot_time_s()
    found = Resolved(host, port, "tcp", ((ADDRESS, now_s + until_s),), now_s + fresh_s)
    publish_text(tmp_path / "run-bpf" / "endpoints", encoded([found]))


def test_before_the_enrolment_there_is_no_way(tmp_path):
    (tmp_path / "agent.toml").write_text(f'state_dir = "{tmp_path}/none"\n')
    assert checked(load(tmp_path / "agent.toml")).detail == "no broker before the enrolment"


def test_where_nobody_guards_the_system_resolves(config):
    found = checked(config('broker = "wss://mq.example/mqtt"'))
    assert found == Check("way out", Grade.OK, "wss://mq.example:443/mqtt; names are resolved by the system")


def test_allowed_addresses_are_counted_with_their_age(config, tmp_path):
    publish(tmp_path, "mq.example", 443)
    found = checked(config('broker = "wss://mq.example/mqtt"'))
    assert found.grade is Grade.OK
    assert "; 1 addresses of mq.example, good for " in found.detail
    publish(tmp_path, "mq.example", 443, fresh_s=-5)
    assert "asked for again" in checked(config('broker = "wss://mq.example/mqtt"')).detail


def test_a_broker_that_is_not_allowed_fails_with_the_cure(config, tmp_path):
    publish(tmp_path, "mq.example", 8883)
    found = checked(config('broker = "wss://mq.example/mqtt"'))
    assert found.grade is Grade.FAIL
    assert "no address of mq.example is allowed at port 443" in found.detail
    assert "systemctl start fedge-policy" in found.cure
    publish(tmp_path, "mq.example", 443, until_s=-1)
    assert checked(config('broker = "wss://mq.example/mqtt"')).grade is Grade.FAIL


def test_with_a_proxy_only_its_address_matters_and_its_credentials_are_tried(config, tmp_path):
    secret = tmp_path / "secret"
    lines = (
        'broker = "mqtts://mq.example"',
        'proxy = "http://proxy.example:3128"',
        f'proxy_credentials = "{secret}"',
    )
    publish(tmp_path, "proxy.example", 3128)
    found = checked(config(*lines))
    assert found.grade is Grade.FAIL
    assert "cannot be read" in found.detail
    secret.write_text("user:hush\n")
    secret.chmod(0o640)
    found = checked(config(*lines))
    assert found.grade is Grade.OK
    assert "through the proxy proxy.example:3128" in found.detail
    secret.chmod(0o644)
    found = checked(config(*lines))
    assert found.grade is Grade.FAIL
    assert "hush" not in found.detail
