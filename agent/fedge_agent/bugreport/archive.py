"""Puts the redacted sections into one tar.gz that only its owner can read."""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent.bugreport.redaction import Redactor
from fedge_agent.bugreport.sections import Section

FOLDER: Final = "fedge-bugreport"
_PRIVATE: Final = 0o600
_PREFACE: Final = """A bug report of a Fedge agent.

Taken out before anything was written: keys, tokens, passwords, certificates, addresses and names of hosts, long runs of
hexadecimal or base64 digits (this device's own id stays). Numbers such as <address-2> stand for the same thing
everywhere in this report. Never looked at: private keys, samples, and what was sent.

"""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a finished archive."""

    name: str
    about: str
    size: int


def write_archive(
    path: Path, found: Iterable[Section], redactor: Redactor, *, clock: Callable[[], float] = time.time
) -> tuple[Part, ...]:
    """Write a new file of mode 0600; returns what it holds.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
    """
    parts = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for section in found:
            content = _redacted(section, redactor)
            parts.append(Part(section.name, section.about, len(content)))
            _add(archive, section.name, content, clock())
        listing = "".join(f"{part.name:20} {part.about}\n" for part in parts)
        _add(archive, "README.txt", (_PREFACE + listing).encode(), clock())
    return tuple(parts)


def _redacted(section: Section, redactor: Redactor) -> bytes:
    if isinstance(section.content, str):
        return redactor.text(section.content).encode()
    return json.dumps(redactor.plain(section.content), indent=1, ensure_ascii=False).encode() + b"\n"


def _add(archive: tarfile.TarFile, name: str, content: bytes, when: float) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/{name}")
    member.size, member.mode, member.mtime = len(content), _PRIVATE, int(when)
    archive.addfile(member, io.BytesIO(content))
