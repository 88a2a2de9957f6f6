"""Chooses the compiler of an object: clang's file if it fits this kernel, else bcc on the spot, else nothing."""

import errno
import os

from fedge_agent.kernel import libbpf, tracepoints
from fedge_agent.kernel.errors import BccMissingError, BpfCallError, KernelLayerError
from fedge_agent.kernel.frozen import TYPE_CHECKING, dataclass
from fedge_agent.kernel.programs import Compiler, ObjectName, TracepointField, programs_of
from fedge_agent.kernel.text_files import StrPath

if TYPE_CHECKING:
    from typing import Protocol

    class Build(Protocol):
        """Programs and maps in the kernel, by name, attached to nothing yet."""

        def program_fd(self, name: str) -> int:
            """Descriptor of a program, owned by the build."""

        def map_fd(self, name: str) -> int:
            """Descriptor of a map, owned by the build."""

        def close(self) -> None:
            """Gives all of them back; what is pinned lives on."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs in the kernel.

    Attributes:
        compiler: the one that made them.
        own_maps: their maps are new and not pinned yet; otherwise those already pinned are used.
        left_out: program name -> why this kernel cannot have it.
    """

    build: "Build"
    compiler: Compiler
    own_maps: bool
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where both compilers find theirs, and where maps of a former attachment are pinned."""

    object_dir: StrPath
    pin_dir: StrPath
    compiler: Compiler = Compiler.AUTO


def load_admission(sources: Sources) -> Loaded:
    """Loads the network programs.

    Raises:
        KernelLayerError: no compiler's programs are accepted; the object's error is the one told.
    """
    if sources.compiler is Compiler.BCC:
        return _by_bcc(sources, ObjectName.ADMISSION, {}, {})
    try:
        return _by_object(sources, ObjectName.ADMISSION, {})
    except KernelLayerError as error:
        if sources.compiler is Compiler.OBJECT:
            raise
        try:
            return _by_bcc(sources, ObjectName.ADMISSION, {}, {})
        except KernelLayerError as second:
            raise KernelLayerError(f"{error}\nand with bcc: {second}") from error


def load_telemetry(sources: Sources, tracefs: StrPath | None) -> Loaded:
    """Loads the tracepoint programs that this kernel can have, by bcc where the object's offsets are not the kernel's.

    Raises:
        KernelLayerError: none can be loaded.
    """
    layouts = {p.name: tracepoints.layout(p, tracefs) for p in programs_of(ObjectName.TELEMETRY)}
    impossible = {name: fit.reason or "" for name, fit in layouts.items() if fit.fields is None}
    misfits = {name: fit.reason for name, fit in layouts.items() if fit.reason is not None}
    if sources.compiler is Compiler.OBJECT or (sources.compiler is Compiler.AUTO and len(misfits) == len(impossible)):
        return _by_object(sources, ObjectName.TELEMETRY, misfits)
    compiled = [field for p in programs_of(ObjectName.TELEMETRY) for field in p.fields]
    present = [field for fit in layouts.values() for field in fit.fields or ()]
    defines = tracepoints.defines([*compiled, *present])
    conflicts = {name: "two tracepoints disagree" for name, fit in layouts.items() if _differs(fit.fields, defines)}
    try:
        return _by_bcc(sources, ObjectName.TELEMETRY, defines, impossible | conflicts)
    except BccMissingError as error:
        if sources.compiler is Compiler.BCC:
            raise
        return _by_object(sources, ObjectName.TELEMETRY, {name: f"{why}; {error}" for name, why in misfits.items()})


def _differs(fields: tuple[TracepointField, ...] | None, defines: dict[str, str]) -> bool:
    return any(defines[name] != value for name, value in tracepoints.defines(fields or ()).items())


def _by_bcc(sources: Sources, name: ObjectName, defines: dict[str, str], left_out: dict[str, str]) -> Loaded:
    from fedge_agent.kernel.bcc_compiler import CompiledSource  # noqa: PLC0415 - where it is needed, 130 MB follow

    build = CompiledSource(os.path.join(sources.object_dir, name.expanded_name), name, defines, frozenset(left_out))
    return Loaded(build, Compiler.BCC, own_maps=True, left_out=left_out)


def _by_object(sources: Sources, name: ObjectName, left_out: dict[str, str]) -> Loaded:
    try:
        return _open_object(sources, name, left_out, own_maps=False)
    except BpfCallError as error:
        if error.errno != errno.EINVAL:
            raise
        # An older version pinned maps of another shape. Its programs keep them until they are replaced.
        return _open_object(sources, name, left_out, own_maps=True)


def _open_object(sources: Sources, name: ObjectName, left_out: dict[str, str], *, own_maps: bool) -> Loaded:
    build = libbpf.LoadedObject(os.path.join(sources.object_dir, name.file_name))
    try:
        for program in left_out:
            build.leave_out(program)
        if not own_maps:
            build.pin_maps(sources.pin_dir)
        build.load()
    except BaseException:
        build.close()
        raise
    return Loaded(build, Compiler.OBJECT, own_maps, left_out)
