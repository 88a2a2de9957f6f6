"""What the daemon of an idle device, connected to its broker over TLS, has loaded: modules, libraries, threads."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedge_coordinator.demo import fleet
from fedge_coordinator.demo.dataset import Prepared
from fedge_coordinator.demo.processes import Child, run, wait_until
from fedge_coordinator.demo.programs import program
from fedge_coordinator.demo.stage import Builder, Options

LIBRARIES = {"Crypto", "_cffi_backend", "cbor2", "cryptography", "msgspec", "paho", "sdnotify", "typing_extensions"}
"""Beside the standard library and ours; msgspec takes typing_extensions where something else brought it."""
UNWANTED = {
    "_bz2": "by shutil, for archives",
    "_lzma": "by shutil, for archives",
    "argparse": "the other commands'; see fedge_agent.entry",
    "cffi": "a parser of C, by pycryptodome; see fedge_agent.deferred",
    "csv": "by importlib.metadata",
    "email.message": "by http.client or importlib.metadata",
    "fedge_agent.bugreport": "a command of its own",
    "fedge_agent.diagnosis": "a command of its own",
    "fedge_agent.identity.ca_client": "at a renewal only: HTTP",
    "fedge_agent.identity.enroll": "at a renewal only",
    "fedge_agent.identity.renewal": "at a renewal only",
    "fedge_agent.kernel.attach": "the loader's",
    "fedge_agent.training.worker": "the worker's",
    "http.client": "by urllib.request, for paho's proxies; see fedge_agent.deferred",
    "http.server": "a command of its own",
    "importlib.metadata": "zip files and e-mail, to read one word",
    "multiprocessing": "nobody needs it here",
    "numpy": "the worker's",
    "pyroute2": "a short-lived process of its own",
    "shutil": "by ctypes.util; see fedge_agent.deferred",
    "tempfile": "as shutil",
    "tflite_runtime": "the worker's",
    "xml": "nobody needs it here",
    "zipfile": "by importlib.metadata",
}
MOST_MODULES = 305
"""Beside ours; 293 when this was written, with Python 3.11. A dozen is half a megabyte: raise it with a figure."""


class Quiet(Builder):
    """A coordinator without a chain or a job, and one enrolled device."""

    def build_quietly(self) -> fleet.Device:
        self.stage.data = Prepared((), ())
        run([program("fedge-coordinator"), "keys", str(self._keys)])
        self._authority()
        self._broker()
        self._coordinator()
        data = self.stage.folder / "data"
        data.mkdir()
        device = fleet.make_device(1, self.stage.folder / "devices", data, None, None)
        self._enroll(device)
        return device


@dataclass
class IdleDaemon:
    """One that is connected; `modules` are those it has loaded by its end."""

    libraries: set[str]
    threads: int
    modules: set[str]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdleDaemon]:
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("no mosquitto here; cure: apt install mosquitto")
    folder = tmp_path_factory.mktemp("idle")
    builder = Quiet(folder / "stage", Options(rounds=1, devices=1, seed=1), lambda _: None)
    try:
        yield watched(builder, builder.build_quietly(), folder / "modules")
    finally:
        builder.stage.close()


def watched(builder: Builder, device: fleet.Device, told: Path) -> IdleDaemon:
    program_text = (
        "import atexit, sys\n"
        "from pathlib import Path\n"
        "def loaded(name):\n"
        "    return getattr(sys.modules[name], '__spec__', None) is not None or name == '__main__'\n"
        f"atexit.register(lambda: Path({str(told)!r}).write_text(' '.join(filter(loaded, list(sys.modules)))))\n"
        "from fedge_agent.entry import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", program_text, "--config", str(device.config), "run"]
    child = builder.stage.children.start("agent", command)
    wait_until(lambda: settled(device), "the agent's connection", timeout_s=60, child=child)
    libraries, threads = look_at(child)
    child.terminate()
    return IdleDaemon(libraries, threads, set(told.read_text().split()))


def settled(device: fleet.Device) -> bool:
    """Connected, and done with what follows a connection."""
    found = device.ask("status")
    return bool(found and found["connected"] and found["prekeys"])


def look_at(child: Child) -> tuple[set[str], int]:
    place = Path("/proc") / str(child.process.pid)
    if os.geteuid() != 0:
        pytest.skip("only root may look at the daemon's maps, it is not dumpable; cure: run the tests as root")
    lines = (place / "maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]).name for line in lines if ".so" in line}, len(list(place.glob("task/*")))


def test_an_idle_daemon_uses_these_libraries_and_no_others(idle: IdleDaemon) -> None:
    outside = {name.partition(".")[0] for name in idle.modules} - set(sys.stdlib_module_names)
    ours = {name for name in outside if name.startswith(("fedge_", "__")) or name in {"_distutils_hack", "_openssl"}}
    assert outside - ours <= LIBRARIES
    assert "fedge_coordinator" not in outside


def test_an_idle_daemon_has_not_loaded_what_only_others_or_rare_moments_need(idle: IdleDaemon) -> None:
    assert {name: why for name, why in UNWANTED.items() if name in idle.modules} == {}


def test_an_idle_daemon_has_no_more_modules_of_others_than_it_had(idle: IdleDaemon) -> None:
    others = sorted(name for name in idle.modules if not name.startswith("fedge_"))
    assert len(others) <= MOST_MODULES, others


def test_an_idle_daemon_maps_no_library_of_a_worker_and_none_to_unpack_archives(idle: IdleDaemon) -> None:
    unwanted = ("libbz2", "liblzma", "openblas", "tflite", "tensorflow", "numpy")
    assert [name for name in idle.libraries if any(word in name for word in unwanted)] == []


def test_an_idle_daemon_is_one_thread(idle: IdleDaemon) -> None:
    assert idle.threads == 1
