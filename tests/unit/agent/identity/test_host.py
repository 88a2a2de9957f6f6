"""What tells one machine from another, and what it tells to others."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedge_agent.identity.host import HARDWARE, MACHINE_ID, Host, host_of
from fedge_agent.identity.keys import Identity
from fedge_protocol.secp256k1 import ChainKey

DEVICE_TREE, DMI, HANDED, SOC = HARDWARE
UUID = "4c4c4544-0042-3510-8053-b4c04f4d3732"


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.of(ec.generate_private_key(ec.SECP256R1()), ChainKey.generate())


def machine(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / {"id": MACHINE_ID, "tree": DEVICE_TREE, "dmi": DMI, "handed": HANDED, "soc": SOC}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_hashes_are_of_this_machine_these_keys_and_this_fleet(identity, tmp_path):
    root = machine(tmp_path, id="abc123\n", tree="10000000deadbeef\x00")
    found = host_of(identity, "lab", root=root)
    assert found == host_of(identity, "lab", root=root)
    assert len(found.machine) == len(found.hardware) == 32
    assert found.machine != found.hardware
    stranger = Identity.of(ec.generate_private_key(ec.SECP256R1()), identity.chain_key)
    for other in (host_of(identity, "other", root=root), host_of(stranger, "lab", root=root)):
        assert (other.machine, other.hardware) != (found.machine, found.hardware)
    machine(root, tree="10000000deadbee0\x00")
    changed = host_of(identity, "lab", root=root)
    assert changed.machine == found.machine
    assert changed.hardware != found.hardware


def test_what_cannot_be_read_is_empty_and_nothing_fails(identity, tmp_path):
    assert host_of(identity, "lab", root=tmp_path / "nothing") == Host(b"", b"")
    (tmp_path / MACHINE_ID).mkdir(parents=True)
    machine(tmp_path, dmi="\xff\xfe not ASCII")
    assert host_of(identity, "lab", root=tmp_path) == Host(b"", b"")


@pytest.mark.parametrize(
    "placeholder",
    ["", "\n", "0", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "Default string",
     "To be filled by O.E.M.", "Not Specified", "03000200-0400-0500-0006-000700080009", "uninitialized\n"],
)  # fmt: skip
def test_what_a_maker_left_in_every_board_tells_no_board_from_another(identity, tmp_path, placeholder):
    assert host_of(identity, "lab", root=machine(tmp_path, id=placeholder, dmi=placeholder)) == Host(b"", b"")


def test_the_first_serial_number_that_says_something_counts(identity, tmp_path):
    by_soc = host_of(identity, "lab", root=machine(tmp_path, dmi="Not Specified", soc="5678abcd"))
    assert by_soc.hardware
    by_dmi = host_of(identity, "lab", root=machine(tmp_path, dmi=UUID))
    assert by_dmi.hardware not in {b"", by_soc.hardware}
    by_tree = host_of(identity, "lab", root=machine(tmp_path, tree="10000000deadbeef"))
    assert by_tree.hardware not in {b"", by_soc.hardware, by_dmi.hardware}


def test_what_only_root_may_read_is_the_same_when_it_is_handed_over(identity, tmp_path):
    as_root = host_of(identity, "lab", root=machine(tmp_path / "root", dmi=UUID.upper() + "\n"))
    assert host_of(identity, "lab", root=machine(tmp_path / "user", handed=UUID)) == as_root


def test_the_package_hands_over_what_only_root_may_read():
    lines = (Path(__file__).resolve().parents[4] / "systemd" / "fedge-agent.tmpfiles").read_text().splitlines()
    assert f"C /{HANDED} 0440 root fedge - /{DMI}" in lines
