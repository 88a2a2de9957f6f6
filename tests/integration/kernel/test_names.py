"""Names from a real name server, in a network namespace that has nothing else."""

import json
import os
import sys
from pathlib import Path

import pytest

from fedge_agent.kernel.dns import MOST_ADDRESSES
from fedge_agent.kernel.endpoints import boot_time_s, read_endpoints

SERVER = Path(__file__).with_name("dns_server.py")
ALONE = """
ip link set lo up
mount --bind "$0/resolv.conf" /etc/resolv.conf
mount --bind "$0/hosts" /etc/hosts
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
mkfifo "$0/ready.$$"
"$PYTHON" "$SERVER" "$0/zone.json" > "$0/ready.$$" &
server=$!
read -r _ < "$0/ready.$$"
"$@"
status=$?
kill $server
exit $status
"""


@pytest.fixture
def world(tmp_path, monkeypatch, root_privilege):
    """Writes the zone of the name server; returns the wrapper for `fedge_bpf`."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("SERVER", str(SERVER))

    def write(**zone):
        (tmp_path / "zone.json").write_text(json.dumps({name.replace("_", "."): entry for name, entry in zone.items()}))
        return ("unshare", "-n", "-m", "sh", "-c", ALONE, str(tmp_path))

    return write


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = ["mq.example:8883/tcp"]\n')
    return str(path)


@pytest.fixture
def published(tmp_path):
    return lambda: read_endpoints(tmp_path / "run-bpf" / "endpoints", owner_uid=os.geteuid())


def test_each_address_is_allowed_for_its_ttl_and_the_grace_time(fedge_bpf, cgroup, world, config, published):
    wrapper = world(mq_example={"a": ["10.1.1.1"], "aaaa": ["fd00::1"], "ttl": 120})
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, "-o", "json", wrapper=wrapper)
    assert json.loads(done.stdout)["allowed"] == ["10.1.1.1:8883/tcp", "[fd00::1]:8883/tcp"]
    (found,) = published()
    now_s = boot_time_s()
    assert found.fresh_until_s is not None
    assert now_s + 60 < found.fresh_until_s <= now_s + 120
    assert {until for _, until in found.addresses} == {found.fresh_until_s + 3600}


def test_a_changed_answer_is_allowed_beside_the_former_which_live_connections_use(
    fedge_bpf, cgroup, client, world, config, published
):
    fedge_bpf(
        "attach", "--cgroup", str(cgroup), "--config", config, wrapper=world(mq_example={"a": ["10.1.1.1"], "ttl": 60})
    )
    done = fedge_bpf(
        "refresh", "--config", config, "-o", "json", wrapper=world(mq_example={"a": ["10.1.1.2"], "ttl": 60})
    )
    assert json.loads(done.stdout)["allowed"] == ["10.1.1.1:8883/tcp", "10.1.1.2:8883/tcp"]
    (found,) = published()
    assert len(found.addresses) == 2


def test_the_shortest_ttl_of_an_alias_and_its_records_counts(fedge_bpf, cgroup, world, config, published):
    wrapper = world(mq_example={"cname": "pool.example", "cname_ttl": 40, "a": ["10.1.1.1"], "ttl": 900})
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, wrapper=wrapper)
    (found,) = published()
    assert found.fresh_until_s is not None
    assert found.fresh_until_s <= boot_time_s() + 40


def test_a_long_answer_comes_by_tcp_and_is_cut(fedge_bpf, cgroup, world, config, published):
    wrapper = world(mq_example={"a": [f"10.1.{n}.1" for n in range(200)], "ttl": 60})
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, wrapper=wrapper)
    assert "the first 16 are used" in done.stderr
    (found,) = published()
    assert len(found.addresses) == MOST_ADDRESSES


def test_an_answer_that_points_at_this_machine_is_refused(fedge_bpf, cgroup, world, config, published):
    wrapper = world(mq_example={"a": ["127.0.0.1", "169.254.169.254"], "aaaa": ["::1"]})
    done = fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, check=False, wrapper=wrapper)
    assert done.returncode == 78
    assert f"{config}:3: " in done.stderr
    assert published() == ()


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (None, 78),
        ({"servfail": True}, 75),
        ({"silent": True}, 75),
        ({"raw": "8180000100010000"}, 75),
        ({"raw": "818000000100000000" + "c0" * 40}, 75),
        ({"a": []}, 78),
    ],
)
def test_a_name_without_a_usable_answer_is_refused_and_the_old_policy_stays(
    fedge_bpf, cgroup, world, tmp_path, config, published, entry, status
):
    good = world(mq_example={"a": ["10.1.1.1"]})
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, wrapper=good)
    before = published()
    other = tmp_path / "other.toml"
    other.write_text(f'runtime_dir = "{tmp_path}/run"\n[kernel]\nallow = ["other.example:8883/tcp"]\n')
    bad = world() if entry is None else world(other_example=entry)
    done = fedge_bpf("refresh", "--config", str(other), check=False, wrapper=bad)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert published() == before


def test_a_name_server_that_is_gone_leaves_the_known_addresses_in_force(fedge_bpf, cgroup, world, config, published):
    fedge_bpf("attach", "--cgroup", str(cgroup), "--config", config, wrapper=world(mq_example={"a": ["10.1.1.1"]}))
    (before,) = published()
    done = fedge_bpf("refresh", "--config", config, wrapper=world(mq_example={"silent": True}))
    assert "its known addresses serve until they expire" in done.stderr
    (after,) = published()
    assert after.addresses == before.addresses
