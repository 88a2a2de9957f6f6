"""Print the part of a lock that one target installs from wheels: markers judged for it, what Debian provides left out.

Usage: locked.py PYTHON_VERSION MACHINE LOCK [LEFT_OUT...], e.g. locked.py 3.11 x86_64 requirements/device.txt numpy
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """(requirement, the whole entry with its hashes) of every locked package."""
    joined = re.sub(r"\\\n\s*", "\\\n    ", lock)
    for block in re.findall(r"^[A-Za-z0-9].*?(?<!\\)$", joined, re.MULTILINE | re.DOTALL):
        yield block.split("--hash=", 1)[0].rstrip(" \\\n"), block


def wanted(lock: str, python: str, machine: str, left_out: frozenset[str]) -> Iterator[str]:
    """The entries for CPython `python` (3.11) on a Linux `machine` (x86_64), without their markers."""
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }
    for text, block in entries(lock):
        requirement = Requirement(text)
        if requirement.name in left_out or (requirement.marker and not requirement.marker.evaluate(target)):
            continue
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", block)
        if not hashes:
            raise ValueError(f"{text}: no hash in the lock; run scripts/lock")
        yield " \\\n    ".join([f"{requirement.name}{requirement.specifier}", *hashes])


def main() -> None:
    """Print."""
    python, machine, path, *left_out = sys.argv[1:]
    lock = Path(path).read_text(encoding="utf-8")
    print("\n".join(wanted(lock, python, machine, frozenset(left_out))))


if __name__ == "__main__":
    main()
