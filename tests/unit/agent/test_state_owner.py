"""Root's commands in the directory of a daemon that was taken over."""

import os
import sqlite3
import struct
import tempfile
from pathlib import Path

import pytest

from fedge_agent import accepted_enrolment, cli
from fedge_agent import leave_command as _leave_command  # noqa: F401 - an interpreter of root's own cannot be
from fedge_agent import rewards as _rewards  # noqa: F401 - read by others, so what they import is there before
from fedge_agent.kernel import budget_file
from fedge_agent.state_owner import as_owner

NOBODY = 65534
_MAGIC = bytes.fromhex("d9d505f920a163d7")
_PAGE, _SECTOR, _NONCE = 4096, 512, 12345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another; run as root")


@pytest.fixture
def state_dir(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)
    for parent in path.parents:  # pytest's own folders are closed to others
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    return path


@pytest.fixture
def config(tmp_path, state_dir):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_dir = "{state_dir}"\nruntime_dir = "{tmp_path}"\n')
    return path


def plant_journal(folder: Path, victim: Path) -> None:
    """A database whose journal names `victim` as its super-journal (sqlite.org/atomiccommit.html, 5.0)."""
    database = folder / "state.db"
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE t (a)")
    made.close()
    content = database.read_bytes()
    page, name = content[:_PAGE], os.fsencode(victim)
    checksum = (_NONCE + sum(page[i] for i in range(_PAGE - 200, 0, -200))) & 0xFFFFFFFF
    header = _MAGIC + struct.pack(">5I", 1, _NONCE, len(content) // _PAGE, _SECTOR, _PAGE)
    record = struct.pack(">I", 1) + page + struct.pack(">I", checksum)
    named = struct.pack(">I", 0x40000000 // _PAGE + 1) + name + struct.pack(">II", len(name), sum(name)) + _MAGIC
    (folder / "state.db-journal").write_bytes(header.ljust(_SECTOR, b"\0") + record + named)
    for path in folder.iterdir():
        os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("command", ["outbox", "rewards", "leave --yes", "bugreport --output REPORT"])
def test_no_file_of_roots_is_deleted_by_what_lies_in_the_state_directory(config, state_dir, tmp_path, command):
    vault = tmp_path / "vault"
    vault.mkdir()
    victim = vault / "precious"
    victim.write_text("data")
    plant_journal(state_dir, victim)
    cli.main(["--config", str(config), *command.replace("REPORT", str(tmp_path / "report.tar.gz")).split()])
    assert victim.read_text() == "data"
    assert os.geteuid() == 0
    assert {path.lstat().st_uid for path in state_dir.iterdir()} == {NOBODY}


def test_the_trap_is_one(state_dir, tmp_path):
    victim = tmp_path / "precious"
    victim.write_text("data")
    plant_journal(state_dir, victim)
    database = sqlite3.connect(state_dir / "state.db")
    database.execute("SELECT * FROM t").fetchall()
    database.close()
    assert not victim.exists(), "what is tested here is no danger any more"


def test_inside_root_is_the_owner_and_afterwards_root_again(state_dir):
    before = (os.geteuid(), os.getegid(), os.getgroups())
    with as_owner(state_dir):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (NOBODY, NOBODY, [NOBODY])
        (state_dir / "file").touch()
        with pytest.raises(PermissionError):
            Path("/etc/shadow").read_bytes()
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert (state_dir / "file").stat().st_uid == NOBODY


@pytest.mark.parametrize("name", ["root's", "missing"])
def test_nothing_changes_where_root_is_at_home(tmp_path, name):
    (tmp_path / "root's").mkdir()
    with as_owner(tmp_path / name):
        assert os.geteuid() == 0


def test_enrolling_as_root_replaces_what_was_accepted_and_leaving_forgets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(budget_file, "DEFAULT_DIRECTORY", str(tmp_path))
    pins, path = Path("/sys/fs/bpf/fedge"), tmp_path / "fedge.enrolment"
    accepted_enrolment.replace(pins, ("https://b", "mqtts://b"))
    assert not path.exists(), "the first is accepted by the loader"
    accepted_enrolment.write(path, ("https://a", "mqtts://a"))
    accepted_enrolment.replace(pins, ("https://b", "mqtts://b"))
    assert accepted_enrolment.read(path) == ("https://b", "mqtts://b")
    accepted_enrolment.forget(pins)
    accepted_enrolment.forget(pins)
    assert not path.exists()
