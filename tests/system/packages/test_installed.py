"""The packages on a booted machine: README's lines, each library at work, what the units promise, and a clean end."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.system.archive import KEYRING
from tests.system.fleet import trust
from tests.system.packages.conftest import LISTING
from tests.system.readme import commands

from fedge_coordinator.modelkit.bundle import build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec

ROOT = Path(__file__).parents[3]
BASE = Path(os.environ.get("FEDGE_SYSTEM_BASE", "/nonexistent"))
LIBRARIES = Path(__file__).with_name("libraries")
# What a purge of any package leaves, and what this test and the machine's own life have added.
NOT_OURS = re.compile(
    r"/(var/(log|cache|tmp|lib/(apt|dpkg|systemd|private))|tmp|root|run/(systemd|user|udev|lock|log|mount|dbus)|srv/probe)(/|$)"
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/etc/(\.pwd\.lock|hostname|machine-id|apt)(/|$)|\.debug$"
    r"|/etc/credstore(\.encrypted)?$|/usr/lib/python3/dist-packages/|__pycache__"
)


@pytest.fixture(scope="module")
def bcc(machine):
    """Debian's python3-bpfcc, fetched by the host's apt: the machine asks no mirror."""
    debs = BASE.with_name("bcc")
    if not list(debs.glob("python3-bpfcc_*.deb")):
        (debs / "partial").mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["apt-get", "-o", f"Dir::State::status={BASE}/var/lib/dpkg/status", "-o", f"Dir::Cache::archives={debs}",
             "-o", "APT::Sandbox::User=root", "--yes", "--no-install-recommends", "--download-only", "install",
             "python3-bpfcc"],
            check=True, capture_output=True,
        )  # fmt: skip
    for deb in debs.glob("*.deb"):
        (machine.root / "srv/probe" / deb.name).write_bytes(deb.read_bytes())
    machine.do("dpkg -i /srv/probe/*.deb")
    return machine


@pytest.fixture(scope="module")
def cgroup(machine):
    """A control group of version 2, and its place."""
    (mount,) = machine.do("findmnt -n -o TARGET -t cgroup2").split()
    machine.do(f"mkdir {mount}/probe")
    yield f"{mount}/probe"
    machine.run(f"rmdir {mount}/probe")


def sealed(machine, name, file, unit):
    """Moves a key from its file to an encrypted credential by the lines of docs/packaging.md."""
    section = (ROOT / "docs/packaging.md").read_text().split("## Secrets\n")[1]
    lines = re.search(r"(?:^    .*\n)+", section, re.MULTILINE)
    assert lines is not None
    first, *rest = lines[0].replace("\n    ", "\n").strip().splitlines()
    assert first.startswith("name=")
    machine.do("\n".join(["set -e", f"name={name} file={file} unit={unit}", *rest]))
    assert machine.do(f"stat -c %s {file}").strip() == "0"
    assert b"PRIVATE" not in (machine.root / f"etc/credstore.encrypted/fedge.{name}").read_bytes()


def test_a_key_of_the_archive_with_another_fingerprint_is_not_taken(bare, before, archive):
    key = (archive.folder / KEYRING).read_bytes()
    other = hashlib.sha256(key + b"\n").hexdigest()
    bare.do("rm /usr/share/keyrings/fedge-archive-keyring.pgp")
    fetch = " && ".join(commands("apt-helper"))
    said = bare.run(f"archive={archive.url} key=SHA256:{other}; {fetch}")
    assert said.status != 0
    assert bare.run("ls /usr/share/keyrings/fedge-archive-keyring.pgp").status != 0
    bare.do("rm -f /usr/share/keyrings/fedge-archive-keyring.pgp.FAILED")
    trust(bare, archive)


def test_the_lines_of_the_readme_install_the_agent_and_the_key_of_the_archive(machine):
    assert machine.run("systemctl is-active fedge-agent").text.strip() == "active"
    assert "fedge-archive-keyring" in machine.do("dpkg -S /usr/share/keyrings/fedge-archive-keyring.pgp")
    machine.do("apt-get update")
    assert machine.do("systemctl is-system-running").strip() == "running"


@pytest.mark.parametrize(
    "script",
    ["numpy_from_debian", "cryptography_seals_and_signs", "eth_account_agrees_with_the_agent"],
)
def test_under_the_units_own_settings(as_unit, script):
    done = as_unit(LIBRARIES / f"{script}.py")
    assert done.status == 0, done.text


def test_tflite_runtime_trains_under_the_units_own_settings(machine, as_unit):
    model = {"input": 6, "layers": [{"dense": 8, "activation": "relu"}, {"dense": 3}], "loss": "softmax-cross-entropy"}
    bundle = build_bundle(parse_model_spec(model))
    (machine.root / "srv/probe/graph.tflite").write_bytes(bundle.graph)
    (machine.root / "srv/probe/weights.bin").write_bytes(bundle.weights)
    done = as_unit(LIBRARIES / "tflite_runtime_trains.py")
    assert done.status == 0, done.text


def test_paho_mqtt_speaks_with_a_real_broker_under_the_units_own_settings(machine, as_unit):
    machine.do("systemd-run --unit=probe-broker mosquitto -p 1885")
    try:
        machine.wait("bash -c 'exec 3<>/dev/tcp/127.0.0.1/1885'", lambda d: d.status == 0)
        done = as_unit(LIBRARIES / "paho_mqtt_speaks_mqtt5.py", settings="RestrictAddressFamilies=AF_NETLINK")
        assert done.status == 0, done.text
    finally:
        machine.do("systemctl stop probe-broker")


def test_pyroute2_speaks_netlink(as_root):
    done = as_root(LIBRARIES / "pyroute2_tells_the_link.py")
    assert done.status == 0, done.text


def test_sdnotify_is_heard_by_systemd(machine, as_root):
    assert as_root(LIBRARIES / "sdnotify_tells_systemd.py").status != 0, "nobody listens outside of a unit"
    machine.do(
        "systemd-run --unit=probe-notify -p Type=notify -p WatchdogSec=20 -p TimeoutStartSec=60"
        " /usr/lib/fedge/bin/python3 -IB /srv/probe/sdnotify_tells_systemd.py stay"
    )
    shown = machine.do("systemctl show probe-notify -p ActiveState,StatusText")
    machine.do("systemctl stop probe-notify")
    assert "ActiveState=active" in shown
    assert "StatusText=told by sdnotify" in shown


@pytest.mark.usefixtures("bcc")
def test_bcc_compiles_and_loads_the_shipped_source_without_kernel_headers(as_root):
    done = as_root(LIBRARIES / "bcc_compiles_our_program.py")
    assert done.status == 0, done.text


def test_what_bcc_compiled_guards_a_control_group(bcc, cgroup):
    command = f"fedge-bpf attach --compiler bcc --pin-dir /sys/fs/bpf/probe --cgroup {cgroup} --allow 192.0.2.1:1/tcp"
    try:
        programs = json.loads(bcc.do(f"{command} -o json"))["programs"]
        guards = [found for found in programs if found["object"].startswith("admission")]
        assert guards
        assert {found["compiler"] for found in guards} == {"bcc"}
        connect = "/usr/bin/python3 -c 'import socket; socket.create_connection((\"10.77.0.1\", 8000), 5)'"
        assert bcc.run(connect).status == 0
        refused = bcc.run(f"echo $$ >{cgroup}/cgroup.procs; {connect}")
        assert "PermissionError: [Errno 1] Operation not permitted" in refused.text
    finally:
        bcc.run("fedge-bpf detach --pin-dir /sys/fs/bpf/probe")


@pytest.mark.usefixtures("founded")
def test_a_device_enrols_by_the_token_that_its_image_carries(machine):
    token = machine.do("fedgectl token create").split()[-1]
    machine.do("install -d -m 700 /etc/credstore")
    (machine.root / "etc/credstore/fedge.enrolment.token").write_text(token)
    (machine.root / "etc/credstore/fedge.enrolment.token").chmod(0o600)
    machine.do("systemctl restart fedge-enroll")
    machine.wait("fedge-agent status -o json", lambda d: '"connected": true' in d.text, timeout_s=120)
    assert token not in machine.journal("fedge-enroll")
    assert machine.do("systemctl show -P User fedge-enroll").strip() == "fedge"
    machine.do("systemctl restart fedge-enroll")
    assert "ConditionResult=no" in machine.do("systemctl show -p ConditionResult fedge-enroll")


@pytest.mark.usefixtures("founded")
def test_the_refresher_publishes_where_the_daemon_may_connect(machine):
    machine.do("rm -f /run/fedge-bpf/endpoints")
    machine.do("systemctl start fedge-policy")
    assert machine.do("stat -c '%a %U' /run/fedge-bpf").split() == ["755", "root"]
    listed = json.loads(machine.do("cat /run/fedge-bpf/endpoints"))
    assert any(machine.address in json.dumps(found) for found in listed["endpoints"]), listed
    assert "warning" not in machine.journal("fedge-policy")


@pytest.mark.parametrize(
    ("name", "file", "unit"),
    [
        ("ca.key", "/var/lib/fedge-ca/ca.key", "fedge-ca"),
        ("committee.key", "/var/lib/fedge-coordinator/keys/committee.key", "fedge-coordinator"),
        ("coordinator.key", "/var/lib/fedge-coordinator/identity/key.pem", "fedge-coordinator"),
        ("identity.key", "/var/lib/fedge/identity.key", "fedge-agent"),
        ("chain.key", "/var/lib/fedge/chain.key", "fedge-agent"),
    ],
)
@pytest.mark.usefixtures("founded")
def test_a_key_may_be_kept_encrypted_and_its_unit_goes_on(machine, name, file, unit):
    sealed(machine, name, file, unit)
    machine.wait(f"systemctl is-active {unit}", lambda d: d.status == 0)
    machine.do("fedgectl token create")
    machine.wait("fedge-agent status -o json", lambda d: '"connected": true' in d.text, timeout_s=120)


@pytest.mark.usefixtures("founded")
def test_a_purge_warns_of_rewards_before_the_keys_go(machine):
    record = (
        "from fedge_agent.store import DeviceStore; from pathlib import Path; "
        "DeviceStore(Path('/var/lib/fedge/state.db'), lambda: 1).round_ended('digits', 7, 0, outcome='included')"
    )
    machine.do(f'/usr/lib/fedge/bin/python3 -IB -c "{record}"')
    said = machine.do("apt-get remove -y fedge-agent")
    assert "'apt purge fedge-agent' destroys them" in said
    assert "digits: counted in 1 rounds, the last was 7" in said
    assert Path(machine.root / "etc/fedge/agent.toml").exists()
    said = machine.do("apt-get purge -y fedge-agent")
    assert "WARNING: the keys of this device are destroyed now" in said
    assert "digits: counted in 1 rounds, the last was 7" in said
    assert "spent only with /etc/credstore.encrypted/fedge.chain.key" in said


def test_purged_packages_leave_nothing_at_all(before, machine):
    of_bcc = " ".join(deb.name.split("_")[0] for deb in (machine.root / "srv/probe").glob("*.deb"))
    machine.do(f"dpkg --purge {of_bcc}")
    machine.do("apt-get purge -y 'fedge-*' && systemctl daemon-reload && systemctl reset-failed")
    now = set(machine.do(LISTING).splitlines())
    left = sorted(path for path in now - before if not NOT_OURS.search(path))
    assert left == []
    assert [path for path in now if "fedge" in path and not re.search(r"/(apt|log|cache)/|/tmp/", path)] == []
    assert machine.run("getent passwd fedge fedge-ca fedge-coordinator").text == ""
    assert machine.do("ls /sys/fs/bpf --ignore='*.debug'").strip() == ""
