"""The measures, taken by a throw-away process without any privilege."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedge_agent.training import confine

NOBODY = 65534
SCRIPT = """
import ctypes, json, os, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import confine
readable, own = Path(sys.argv[2]), Path(sys.argv[3])
found = confine.confine_process(int(sys.argv[4]), nice=7, idle=True)
found |= confine.confine_files(readable=[readable, Path("/missing")], writable_directory=own)
libc, signal = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(2, ctypes.byref(signal), 0, 0, 0)
found["signal"], found["dumpable"] = signal.value, libc.prctl(3, 0, 0, 0, 0)
found["scheduler"], found["nice"] = os.sched_getscheduler(0), os.nice(0)
found["refused"] = []
deeds = {
    "read": lambda: (readable / "file").read_text(),
    "write own": lambda: (own / "file").write_text("x"),
    "remove own": lambda: (own / "file").unlink(),
    "read elsewhere": lambda: Path("/etc/passwd").read_text(),
    "write data": lambda: (readable / "file").write_text("x"),
    "remove data": lambda: (readable / "file").unlink(),
    "link": lambda: os.link(readable / "file", own / "link"),
    "symbolic link": lambda: os.symlink("/etc/passwd", own / "link"),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[5])), 1),
    "connect to a local service": lambda: socket.socket(socket.AF_UNIX).connect(str(readable / "service")),
}
for name, deed in deeds.items():
    try:
        deed()
    except OSError as error:
        found["refused"].append(name)
print(json.dumps(found))
"""


@pytest.fixture
def shared(tmp_path_factory):
    """A folder that also `nobody` can reach, with the module under test, data, and a folder to write in."""
    root = Path("/tmp") / f"fedge-confine-{os.getpid()}"  # noqa: S108 - pytest's own folders are closed to others
    for folder in (root, root / "data", root / "own"):
        folder.mkdir()
        folder.chmod(0o777)
    shutil.copy(confine.__file__, root / "confine.py")
    (root / "data" / "file").write_text("data")
    for file in (root / "confine.py", root / "data" / "file"):
        file.chmod(0o666)
    yield root
    shutil.rmtree(root)


def run(shared, port=9, parent=None, python="/usr/bin/python3"):
    if not Path(python).exists():
        pytest.skip(f"no {python}, which every user could run; apt install python3")
    command = [python, "-c", SCRIPT, shared, shared / "data", shared / "own", str(parent or os.getpid()), str(port)]
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.run(command, capture_output=True, text=True, check=False, **user)


def test_an_unprivileged_process_confines_itself(shared):
    found = json.loads(run(shared).stdout)
    assert found["no-new-privileges"] == found["priority"] == found["not-dumpable"] == found["parent-death"] == "on"
    assert (found["scheduler"], found["nice"]) == (os.SCHED_IDLE, min(19, os.nice(0) + 7))


def test_the_parents_signal_and_the_ban_on_dumps_are_in_force_after_all_measures(shared):
    found = json.loads(run(shared).stdout)
    assert (found["signal"], found["dumpable"]) == (9, 0)


def test_only_the_paths_named_can_be_used(shared):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as service:
        service.bind(str(shared / "data" / "service"))
        (shared / "data" / "service").chmod(0o666)
        service.listen()
        found = json.loads(run(shared, port=listener.getsockname()[1]).stdout)
    if found["landlock"] != "on":
        pytest.skip(f"Landlock is {found['landlock']}; needs Linux 5.13 with landlock in lsm=")
    files = ["read elsewhere", "write data", "remove data", "link", "symbolic link"]
    assert found["refused"] == [*files, "connect", "connect to a local service"]
    assert (shared / "data" / "file").read_text() == "data"


def test_a_process_whose_parent_is_gone_ends(shared):
    ended = run(shared, parent=1)
    assert ended.returncode != 0
    assert "the parent, process 1, has ended" in ended.stderr


FILTERED = """
import ctypes, errno, json, os, socket, sys
sys.path.insert(0, sys.argv[1])
import confine
found = {"measure": confine._refuse_sockets(), "refused": []}
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
    except PermissionError:
        found["refused"].append(family.name)
libc = ctypes.CDLL(None, use_errno=True)
made = libc.syscall(425, 1, None)
found["io_uring"] = errno.errorcode[ctypes.get_errno()] if made < 0 else "made"
reader, writer = os.pipe()
os.write(writer, b"still there")
found["pipe"] = os.read(reader, 20).decode()
print(json.dumps(found))
"""


def test_a_worker_that_may_make_no_namespace_is_refused_every_socket_by_a_filter(shared):
    machine = os.uname().machine
    if machine not in {"x86_64", "aarch64"}:
        pytest.skip(f"the filter is not written for {machine}")
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    command = ["/usr/bin/python3", "-c", FILTERED, shared]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **user)
    assert json.loads(done.stdout) == {
        "measure": "on",
        "refused": ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"],
        "io_uring": "EPERM",
        "pipe": "still there",
    }
