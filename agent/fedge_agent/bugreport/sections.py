"""What goes into a bug report, part by part. Nothing here is redacted yet; nothing here opens a key or a sample."""

import json
import os
import platform
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from fedge_agent import control, diagnosis
from fedge_agent.config import Config, ConfigError, File, load
from fedge_agent.config_layers import MAX_FILE_BYTES, dropin_folder
from fedge_agent.config_origins import settings_of
from fedge_agent.identity.errors import KeyFileError
from fedge_agent.identity.files import read_private
from fedge_agent.identity.record import RECORD, Record
from fedge_agent.state_owner import as_owner
from fedge_agent.store import DeviceStore
from fedge_protocol.certificates import CertificateRefusedError, load_fleet_ca, verify_device_certificate
from fedge_protocol.errors import ProtocolError

Run = Callable[[Sequence[str]], str]
"""Runs a command and gives what it printed; raises OSError when it cannot be run."""

UNITS: Final = ("fedge-agent.service", "fedge-policy.service", "fedge-inference.socket", "fedge-inference.service")
_PACKAGES: Final = (
    "fedge", "numpy", "tflite-runtime", "ai-edge-litert", "cryptography", "paho-mqtt", "msgspec", "cbor2", "pyroute2",
    "sdnotify", "pycryptodome", "eth-account",
)  # fmt: skip
_KERNEL_FILES: Final = (
    "/sys/kernel/security/lsm", "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/net/core/bpf_jit_enable",
    "/sys/fs/cgroup/cgroup.controllers", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io",
    "/proc/loadavg", "/proc/meminfo",
)  # fmt: skip
_PROPERTIES: Final = (
    "Id,ActiveState,SubState,Result,StatusText,NRestarts,ExecMainStatus,"
    "MemoryCurrent,MemoryPeak,CPUUsageNSec,TasksCurrent"
)
_EXPECTED: Final = (
    OSError, ValueError, KeyFileError, ProtocolError, msgspec.DecodeError, sqlite3.Error,
    control.DaemonUnreachableError,
)  # fmt: skip
"""Why a part cannot be had; ProtocolError covers a store and certificates that cannot be used."""
_WRITTEN_HOST: Final = re.compile(
    r"""(?<=://)(?:[^\s/@"]+@)?(\[[^\]\s]+\]|[\w.-]+)          # of a URL
    |(\[[^\]\s]+\]|[\w.-]+)(?=:\d{1,5}/(?:tcp|udp))           # of an allow rule
    |(?<![\w./\[-])((?:[\w-]+\.)+(?!(?:toml|d|ring|service|slice|npz|csv)\b)[A-Za-z][\w-]*)(?![\w./])""",
    re.VERBOSE,
)
"""Names and addresses of hosts in a configuration, in comments too: of a URL, of a rule, or any dotted name."""
_JOURNAL_LINES: Final = 1000
_SHOWN_ROUNDS: Final = 200
_TIMEOUT_S: Final = 15.0
_MAX_BYTES: Final = 1024 * 1024
_MAX_LISTED: Final = 500


@dataclass(frozen=True, slots=True)
class Section:
    """A file of the archive: JSON from `content`, or its text; `about` says in a line what it is."""

    name: str
    about: str
    content: Any


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the parts come from. `config` None with `fault`: the configuration cannot be used."""

    config_path: Path
    config: Config | None
    fault: str
    run: Run
    root: Path = Path("/")


def survey(config_path: Path, run: Run, root: Path = Path("/")) -> Surroundings:
    """Read the configuration, as far as it can be read."""
    try:
        return Surroundings(config_path, load(config_path), "", run, root)
    except ConfigError as error:
        return Surroundings(config_path, None, str(error), run, root)


def sections(around: Surroundings) -> Iterator[Section]:
    """All parts. One that cannot be had is there with the reason."""
    for name, about, gather in _SECTIONS:
        try:
            content = gather(around)
        except _EXPECTED as error:
            content = {"could not be had": str(error)}
        yield Section(name, about, content)


def own_names(around: Surroundings) -> tuple[list[str], list[str]]:
    """What may be shown of this device (its id), and the names of hosts that must not be.

    The configuration's text is searched for them, so that one which cannot be used gives nothing away either.
    """
    hosts, shown = [platform.node(), *hosts_written(around.config_path)], []
    folder = Path(File().state_dir) if around.config is None else around.config.state_dir
    try:
        found = _record(folder)
    except _EXPECTED:
        found = None
    if found is not None:
        shown.append(found.device_id)
        hosts += [urlsplit(url).hostname or "" for url in (found.url, found.answer.broker_url)]
    return shown, hosts


def hosts_written(path: Path) -> list[str]:
    """The hosts that a configuration names, whether or not it can be used: in agent.toml, agent.d, also in comments."""
    found = []
    for file in (path, *sorted(dropin_folder(path).glob("*.toml"))):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")[:MAX_FILE_BYTES]
        except OSError:
            continue
        found += [name.strip("[]") for names in _WRITTEN_HOST.findall(text) for name in names if name]
    return found


def run_command(command: Sequence[str]) -> str:
    """Run a command with a bounded time and output.

    Raises:
        OSError: it is not there, fails or takes too long.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - commands of this module
            list(command), capture_output=True, timeout=_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]}: no end within {_TIMEOUT_S:.0f} s") from None
    if done.returncode and not done.stdout:
        raise OSError(f"{command[0]}: status {done.returncode}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout[-_MAX_BYTES:].decode(errors="replace")


def _versions(_: Surroundings) -> dict[str, Any]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        release = None
    return {"packages": found, "python": platform.python_version(), "distribution": release}


def _kernel(around: Surroundings) -> dict[str, Any]:
    files = {}
    for name in _KERNEL_FILES:
        try:
            files[name] = (around.root / name[1:]).read_text(encoding="utf-8", errors="replace")[:4096].strip()
        except OSError as error:
            files[name] = f"({error.strerror})"
    pins = [] if around.config is None else ["--pin-dir", around.config.kernel.pin_dir]
    command = [sys.executable, "-m", "fedge_agent.kernel.loader", "status", "-o", "json", *pins]
    try:
        programs: Any = json.loads(around.run(command))
    except (OSError, ValueError) as error:
        programs = str(error)
    names = os.uname()
    return {
        "release": names.release,
        "version": names.version,
        "machine": names.machine,
        "cpus": os.cpu_count(),
        "btf": (around.root / "sys/kernel/btf/vmlinux").exists(),
        "files": files,
        "fedge-bpf status": programs,
    }


def _configuration(around: Surroundings) -> dict[str, Any]:
    if around.config is None:
        return {"faults": around.fault.splitlines()}
    settings = settings_of(around.config)
    return {
        "layers": [layer.source for layer in around.config.layers],
        "settings": {setting.name: {"value": setting.value, "origin": setting.origin} for setting in settings},
    }


def _enrolment(around: Surroundings) -> dict[str, Any]:
    found = _record(_needed(around).state_dir)
    if found is None:
        return {"enrolled": False}
    return {
        "enrolled": True,
        "device": found.device_id,
        "fleet": found.fleet,
        "enrolled_at": found.enrolled_at,
        "certificate": _certificate(found),
        "ca": found.url,
        "broker": found.answer.broker_url,
        "chain_id": found.answer.chain_id,
        "job_signers": len(found.answer.job_signers),
        "membership_log_entries": found.answer.head.seq,
    }


def _status(around: Surroundings) -> dict[str, Any]:
    return control.ask(_needed(around).control_socket, "status")


def _doctor(around: Surroundings) -> list[dict[str, str]]:
    return [
        {"name": check.name, "grade": check.grade.value, "detail": check.detail, "cure": check.cure}
        for check in diagnosis.run_all(_needed(around))
    ]


def _decisions(around: Surroundings) -> dict[str, Any]:
    folder = _needed(around).state_dir
    with as_owner(folder):
        return _decided(folder / "state.db")


def _decided(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"rounds": [], "outcomes": {}}
    store = DeviceStore(path, lambda: 0)
    try:
        rounds = [
            {"at_ms": r.at_ms, "job": r.job, "round": r.round, "attempt": r.attempt, "outcome": r.outcome}
            | {"detail": r.detail, "bytes_up": r.bytes_up}
            for r in store.rounds(_SHOWN_ROUNDS)
        ]
        sent = [
            {"at_ms": s.at_ms, "job": s.job, "round": s.round, "attempt": s.attempt, "kind": s.kind}
            | {"bytes": len(s.message), "acknowledged": s.acknowledged}
            for s in store.outbox(_SHOWN_ROUNDS)
        ]
        return {
            "rounds": rounds,
            "outcomes": store.outcomes(),
            "prekeys_left": store.published_count(),
            "messages": sent,
        }
    finally:
        store.close()


def _files(around: Surroundings) -> list[dict[str, Any]]:
    """Names, sizes and modes in the state directory: no content, and nothing of a data source."""
    folder = _needed(around).state_dir
    listed = []
    for path in sorted(folder.rglob("*"))[:_MAX_LISTED]:
        status = path.lstat()
        listed.append(
            {
                "name": str(path.relative_to(folder)),
                "mode": stat.filemode(status.st_mode),
                "uid": status.st_uid,
                "bytes": status.st_size,
                "changed": int(status.st_mtime),
            }
        )
    return listed


def _units(around: Surroundings) -> str:
    return around.run(["systemctl", "show", "--no-pager", f"--property={_PROPERTIES}", *UNITS])


def _journal(around: Surroundings) -> str:
    units = [word for unit in UNITS for word in ("--unit", unit)]
    return around.run(["journalctl", "--no-pager", "--output=short-iso", f"--lines={_JOURNAL_LINES}", *units])


def _needed(around: Surroundings) -> Config:
    if around.config is None:
        raise ValueError("the configuration cannot be used; see configuration.json")
    return around.config


def _record(folder: Path) -> Record | None:
    path = folder / RECORD
    with as_owner(folder):
        return msgspec.json.decode(read_private(path), type=Record) if path.exists() else None


def _certificate(found: Record) -> str:
    try:
        ca = load_fleet_ca(found.answer.ca, fleet=found.fleet)
        device = verify_device_certificate(found.answer.certificate, ca=ca, fleet=found.fleet, now=time.time())
    except CertificateRefusedError as error:
        return str(error)
    return f"good until {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(device.not_after))}"


_SECTIONS: Final[tuple[tuple[str, str, Callable[[Surroundings], Any]], ...]] = (
    ("versions.json", "versions of the agent, of what it is built on, and of the distribution", _versions),
    ("kernel.json", "the kernel: release, eBPF programs, control groups, pressure", _kernel),
    ("configuration.json", "every setting with its place, or the faults", _configuration),
    ("enrolment.json", "fleet, device id, when the certificate ends", _enrolment),
    ("status.json", "what the daemon says about itself", _status),
    ("doctor.json", "the checks of fedge-agent doctor", _doctor),
    ("decisions.json", "how rounds ended and why; kinds and sizes of what left the device", _decisions),
    ("files.json", "names, sizes and modes in the state directory", _files),
    ("units.txt", "what systemd says about the units", _units),
    ("journal.txt", f"the last {_JOURNAL_LINES} lines of the units' journal", _journal),
)
