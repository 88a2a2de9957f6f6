"""bcc as second compiler of the same sources, on the device: no kernel headers, no BTF, but 130 MB and half a second.

`bcc` is Debian's python3-bpfcc (PyPI's `bcc` is an unrelated package). Its place is a short-lived loader.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedge_agent.kernel.errors import BccError, BccMissingError
from fedge_agent.kernel.programs import MAPS, ObjectName, Program, programs_of
from fedge_agent.kernel.text_files import StrPath

INSTALLED_HEADERS = Path("/usr/share/fedge/bcc")
REPOSITORY_HEADERS = Path(__file__).parents[3] / "bpf" / "bcc"
DISTRIBUTION_MODULES = Path("/usr/lib/python3/dist-packages")
_CURE = "apt install python3-bpfcc"


def default_headers() -> Path:
    """The bundled headers that stand in for the kernel's: the installed ones, or the repository's."""
    return INSTALLED_HEADERS if INSTALLED_HEADERS.is_dir() else REPOSITORY_HEADERS


def _bcc() -> Any:
    """The class bcc.BPF; the distribution's, also where the interpreter is an environment that does not show it.

    Raises:
        BccMissingError: it is not installed.
    """
    before = list(sys.path)
    sys.path.append(str(DISTRIBUTION_MODULES))
    try:
        from bcc import BPF  # noqa: PLC0415 - 64 MB, only for who needs it
    except ImportError as error:
        raise BccMissingError(f"bcc cannot be imported ({error}); {_CURE}") from error
    finally:
        sys.path[:] = before
    return BPF


class CompiledSource:
    """One expanded source (build/*.bcc.c), compiled by bcc and loaded, with maps of its own.

    Args:
        defines: of tracepoint fields, from `tracepoints.defines`; empty for the admission programs.
        left_out: names of programs that this kernel cannot have.

    Raises:
        BccMissingError: python3-bpfcc is not installed, or not visible to this interpreter.
        BccError: with bcc's own words; clang's are on standard error.
    """

    def __init__(
        self,
        source: StrPath,
        name: ObjectName,
        defines: Mapping[str, str],
        left_out: frozenset[str] = frozenset(),
        headers: Path | None = None,
    ) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers or default_headers())
        compile_source = _bcc()
        flags = ["-w", *(f"-D{key}={value}" for key, value in defines.items())]
        if not os.path.isfile(source):
            raise BccError(f"{source} does not exist; build it with `make -C bpf`")
        try:
            self._module: Any = compile_source(src_file=os.fspath(source), cflags=flags)
            wanted = [p for p in programs_of(name) if p.name not in left_out]
            self._programs = {p.name: self._load(p) for p in wanted}
            names = [item.name for item in MAPS if item.object_name is name]
            self._maps = {item: int(self._module[item.encode()].map_fd) for item in names}
        except Exception as error:
            raise BccError(f"bcc cannot make {source}: {error}; see clang's words above") from error

    def _load(self, program: Program) -> int:
        kind = self._module.load_func(
            program.name.encode(), program.program_type, attach_type=program.attach_type if program.on_cgroup else -1
        )
        return int(kind.fd)

    def program_fd(self, name: str) -> int:
        """The descriptor of a loaded program."""
        return self._programs[name]

    def map_fd(self, name: str) -> int:
        """The descriptor of a map."""
        return self._maps[name]

    def close(self) -> None:
        """Gives programs and maps back; what is pinned lives on."""
        self._module.cleanup()
