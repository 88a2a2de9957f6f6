"""eBPF for the demo's devices: one cgroup and one pin directory each, on a BPF file system of the demo's own."""

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fedge_coordinator.demo.processes import DemoError, run
from fedge_coordinator.demo.programs import REPOSITORY, program

_OBJECTS = REPOSITORY / "bpf" / "build"
PRIVATE_MOUNTS = "FEDGE_DEMO_PRIVATE_MOUNTS"
"""Set in the environment when what is mounted here is seen by the demo alone."""
_TRACEFS = Path("/sys/kernel/tracing")
_RMDIR_TRIES = 50


@dataclass
class Confinement:
    """One device's cgroup and where its programs are pinned."""

    cgroup: Path
    pin_dir: Path


class KernelStage:
    """Mounts in the demo's private mount namespace, cgroups, attached programs; all undone by `close`."""

    def __init__(self, folder: Path) -> None:
        self._bpffs = folder / "bpffs"
        self._root = _cgroup2() / f"fedge-demo-{os.getpid()}"
        self._confinements: list[Confinement] = []

    def open(self) -> None:
        """Mount what is missing and make the demo's cgroup.

        Raises:
            DemoError: the kernel does not allow it.
        """
        self._bpffs.mkdir(exist_ok=True)
        _mount("bpf", self._bpffs)
        if os.environ.get(PRIVATE_MOUNTS) and not (_TRACEFS / "events").exists():
            with contextlib.suppress(DemoError):
                _mount("tracefs", _TRACEFS)
        self._root.mkdir()

    def confine(self, number: int, allowed: list[str]) -> Confinement:
        """A cgroup in which only `allowed` (HOST:PORT/PROTO) can be reached.

        Raises:
            DemoError: the programs cannot be loaded.
        """
        place = Confinement(self._root / f"device-{number}", self._bpffs / f"device-{number}")
        place.cgroup.mkdir()
        self._confinements.append(place)
        command = [program("fedge-bpf"), "attach", "--cgroup", str(place.cgroup), "--pin-dir", str(place.pin_dir)]
        for rule in allowed:
            command += ["--allow", rule]
        run([*command, "--object-dir", str(_OBJECTS)])
        return place

    def close(self) -> None:
        """Detach, and remove the cgroups."""
        for place in self._confinements:
            with contextlib.suppress(DemoError):
                run([program("fedge-bpf"), "detach", "--pin-dir", str(place.pin_dir)])
        for place in self._confinements:
            for child in ("worker", "agent"):
                _remove(place.cgroup / child)
            _remove(place.cgroup)
        _remove(self._root)
        ctypes.CDLL(None).umount2(str(self._bpffs).encode(), 2)


def why_not() -> str | None:
    """Why eBPF stays off; None when it can be used."""
    if os.geteuid() != 0:
        return "it needs root; run scripts/demo as root to see it"
    if not (_OBJECTS / "admission.bpf.o").exists():
        return "the programs are not built (make -C bpf)"
    try:
        _cgroup2()
    except DemoError as error:
        return str(error)
    return None


def _cgroup2() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    raise DemoError("there is no cgroup v2 here")


def _mount(kind: str, where: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), str(where).encode(), kind.encode(), 0, None) != 0:
        raise DemoError(f"cannot mount {kind} at {where}: {os.strerror(ctypes.get_errno())}")


def _remove(cgroup: Path) -> None:
    for _ in range(_RMDIR_TRIES):
        try:
            cgroup.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)  # its processes are being reaped
        else:
            return
