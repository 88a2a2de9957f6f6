import pytest

from fedge_agent.kernel.endpoints import Resolver
from fedge_agent.kernel.errors import NameUnknownError, PolicyError
from fedge_agent.kernel.policy_file import read_config, read_policy, resolve, written

CONFIG = """\
state_dir = "/var/lib/fedge"
runtime_dir = "/run/other"

[kernel]
network = "audit"
# the broker
allow = [
    "broker.example:8883/tcp",
    "192.0.2.0/24:53/udp",
]
rate_kib_per_s = 512
daily_budget_mib = 20

[worker]
allow = 3
"""


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return path

    return write


def test_the_kernel_table_is_read(config):
    found = read_config(config(CONFIG))
    assert (found.mode, found.rate_bytes_per_s, found.daily_budget_bytes) == ("audit", 512 * 1024, 20 * 1024 * 1024)
    assert [rule.text for rule in found.rules] == ["broker.example:8883/tcp", "192.0.2.0/24:53/udp"]
    assert str(found.endpoints) == "/run/other-bpf/endpoints"


def test_a_file_without_the_table_has_all_defaults(config):
    assert read_config(config("")).rules == ()
    assert read_config(config("")).mode is None


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("192.0.2.0/24:53/udp", "192.0.2.0/33:53/udp", 9, "192.0.2.0/33"),
        ("192.0.2.0/24:53/udp", "192.0.2.1/24:53/udp", 9, "has host bits set"),
        ("192.0.2.0/24:53/udp", "192.0.2.0/24:70000/udp", 9, "port 70000 is not in 1-65535"),
        ("broker.example:8883/tcp", "broker.example/tcp", 8, "is not HOST_OR_CIDR:PORT/tcp or /udp"),
        ("rate_kib_per_s = 512", "rate_kib_per_s = 0", 11, "not a whole number of 1 to 4194303"),
        ("daily_budget_mib = 20", 'daily_budget_mib = "20"', 12, "kernel.daily_budget_mib"),
        ('network = "audit"', 'network = "on"', 5, "is not one of require, prefer, audit, off"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_line(config, old, new, line, words):
    path = config(CONFIG.replace(old, new))
    with pytest.raises(PolicyError) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert words in str(refused.value)


def test_what_is_no_toml_is_refused(config):
    with pytest.raises(PolicyError, match="line 1"):
        read_config(config("= 3"))
    with pytest.raises(PolicyError, match="a table is needed"):
        read_config(config("kernel = 3"))


def test_a_policy_files_fault_names_its_line(tmp_path):
    path = tmp_path / "allow"
    path.write_text("# broker\n192.0.2.7:8883/tcp\n\n192.0.2.7:99999/tcp # typo\n")
    with pytest.raises(PolicyError, match=f"{path}:4: rule '192.0.2.7:99999/tcp': port 99999"):
        read_policy(path)


def test_an_unknown_name_is_told_with_the_place_where_it_stands():
    def unknown(name):
        raise NameUnknownError(f"host name {name!r} is not known")

    rules = [written("192.0.2.1:1/tcp", "a:1"), written("brokr.example:1/tcp", "a:2")]
    with pytest.raises(PolicyError, match=r"a:2: rule 'brokr.example:1/tcp': host name 'brokr.example' is not known"):
        resolve(rules, Resolver(ask_for=unknown))


def test_a_file_that_others_may_write_is_refused(config):
    path = config(CONFIG)
    path.chmod(0o666)
    with pytest.raises(PolicyError, match="chmod go-w"):
        read_config(path)
