"""The part of libbpf 1.x that Fedge needs, through ctypes; 1.4 MB of packages and no compiler on the device."""

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from fedge_agent.kernel.errors import BpfCallError, LibbpfMissingError
from fedge_agent.kernel.text_files import StrPath

SONAME = "libbpf.so.1"
READ_ONLY = 1 << 3  # BPF_F_RDONLY

RingCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PrintCallback = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = tuple((name, c_uint32) for name in ("type", "id", "key_size", "value_size", "max_entries", "flags"))


class _ObjGetOpts(ctypes.Structure):
    _fields_ = (("sz", c_size_t), ("file_flags", c_uint32))


class LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info with the cgroup branch of its union; cgroup_id is 0 once the cgroup is gone."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad", c_uint32),
        ("cgroup_id", c_uint64),
        ("attach_type", c_uint32),
        ("tail", c_uint32 * 5),
    )


_POINTER_CALLS: dict[str, tuple[type, ...]] = {
    "bpf_object__open_file": (c_char_p, c_void_p),
    "bpf_object__find_map_by_name": (c_void_p, c_char_p),
    "bpf_object__find_program_by_name": (c_void_p, c_char_p),
    "bpf_object__next_map": (c_void_p, c_void_p),
    "bpf_object__next_program": (c_void_p, c_void_p),
    "ring_buffer__new": (c_int, RingCallback, c_void_p, c_void_p),
}
_INT_CALLS: dict[str, tuple[type, ...]] = {
    "bpf_object__load": (c_void_p,),
    "bpf_program__set_autoload": (c_void_p, ctypes.c_bool),
    "bpf_program__fd": (c_void_p,),
    "bpf_map__fd": (c_void_p,),
    "bpf_map__set_pin_path": (c_void_p, c_char_p),
    "bpf_link_create": (c_int, c_int, c_int, c_void_p),
    "bpf_obj_pin": (c_int, c_char_p),
    "bpf_link_update": (c_int, c_int, c_void_p),
    "bpf_prog_get_fd_by_id": (c_uint32,),
    "bpf_obj_get_opts": (c_char_p, POINTER(_ObjGetOpts)),
    "bpf_obj_get_info_by_fd": (c_int, c_void_p, POINTER(c_uint32)),
    "bpf_map_update_elem": (c_int, c_void_p, c_void_p, c_uint64),
    "bpf_map_lookup_elem": (c_int, c_void_p, c_void_p),
    "bpf_map_delete_elem": (c_int, c_void_p),
    "bpf_map_get_next_key": (c_int, c_void_p, c_void_p),
    "bpf_prog_test_run_opts": (c_int, c_void_p),
    "bpf_map_lookup_batch": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "libbpf_num_possible_cpus": (),
    "ring_buffer__consume": (c_void_p,),
    "ring_buffer__epoll_fd": (c_void_p,),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with every prototype set (without them ctypes cuts pointers to 32 bits).

    Raises:
        LibbpfMissingError: it is not installed.
    """
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise LibbpfMissingError(f"{SONAME} cannot be loaded ({error}); apt install libbpf1") from error
    for name, arguments in _POINTER_CALLS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_void_p
    for name, arguments in _INT_CALLS.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_int
    for name in ("bpf_object__close", "ring_buffer__free"):
        function = getattr(lib, name)
        function.argtypes, function.restype = (c_void_p,), None
    for name in ("bpf_map__name", "bpf_program__name"):
        function = getattr(lib, name)
        function.argtypes, function.restype = (c_void_p,), c_char_p
    lib.libbpf_set_print.argtypes, lib.libbpf_set_print.restype = (c_void_p,), c_void_p
    _Log.install(lib)
    return lib


class _Log:
    """Keeps libbpf's last warnings for the error message instead of printing them."""

    lines: list[str] = []  # noqa: RUF012 - one library, one log
    _callback: object = None

    @classmethod
    def install(cls, lib: ctypes.CDLL) -> None:
        # The message is a printf format with a va_list; libc formats it.
        libc = ctypes.CDLL(None)
        libc.vsnprintf.argtypes = (c_char_p, c_size_t, c_char_p, c_void_p)

        def keep(level: int, text: bytes, arguments: int) -> int:
            if level == 0:
                buffer = ctypes.create_string_buffer(4096)
                libc.vsnprintf(buffer, len(buffer), text, arguments)
                cls.lines = [*cls.lines[-30:], buffer.value.decode(errors="replace").rstrip()]
            return 0

        callback = _PrintCallback(keep)
        cls._callback = callback
        lib.libbpf_set_print(ctypes.cast(callback, c_void_p))


def warnings() -> str:
    """What libbpf said last, for an error message; empty when it was content."""
    return "\n".join(_Log.lines)


def pointer(value: int | None, what: str, cure: str = "") -> int:
    """The pointer `value`, or BpfCallError with errno when it is NULL (libbpf 1.x sets errno)."""
    if not value:
        raise BpfCallError(what, ctypes.get_errno(), cure)
    return value


def checked(value: int, what: str, cure: str = "") -> int:
    """The non-negative `value`, or BpfCallError: libbpf returns -errno, or -1 with errno set."""
    if value < 0:
        raise BpfCallError(what, ctypes.get_errno() or -value, cure)
    return value


def open_pin(path: StrPath, *, read_only: bool = False) -> int:
    """A file descriptor of the pinned map, link or program; the caller closes it.

    Raises:
        BpfCallError: ENOENT, or EACCES when the pin's file mode says no.
    """
    opts = _ObjGetOpts(sz=ctypes.sizeof(_ObjGetOpts), file_flags=READ_ONLY if read_only else 0)
    return checked(library().bpf_obj_get_opts(os.fsencode(path), byref(opts)), f"cannot open pin {path}")


def link_info(fd: int, name: str) -> LinkInfo:
    """The kernel's description of a link."""
    result = LinkInfo()
    length = c_uint32(ctypes.sizeof(result))
    checked(library().bpf_obj_get_info_by_fd(fd, byref(result), byref(length)), f"no information about link {name}")
    return result


def possible_cpus() -> int:
    """How many values a per-CPU map holds for one key."""
    return checked(library().libbpf_num_possible_cpus(), "cannot count CPUs")


def update(fd: int, key: bytes, value: bytes, what: str) -> None:
    """Sets one element of a map."""
    checked(library().bpf_map_update_elem(fd, key, value, 0), f"cannot set {what}")


def lookup(fd: int, key: bytes, value_bytes: int, what: str) -> bytes:
    """One element of a map that is not per CPU.

    Raises:
        BpfCallError: EMSGSIZE when the map's values have another size (another version made it).
    """
    info = _MapInfo()
    length = c_uint32(ctypes.sizeof(info))
    checked(library().bpf_obj_get_info_by_fd(fd, byref(info), byref(length)), f"no information about {what}")
    if info.value_size != value_bytes:
        raise BpfCallError(f"{what} has values of {info.value_size} bytes, not {value_bytes}", errno.EMSGSIZE)
    value = ctypes.create_string_buffer(value_bytes)
    checked(library().bpf_map_lookup_elem(fd, key, value), f"cannot read {what}")
    return value.raw


def keys(fd: int, key_bytes: int) -> Iterator[bytes]:
    """Every key of a map. Keys that appear or go meanwhile may be missed."""
    previous: bytes | None = None
    while True:
        following = ctypes.create_string_buffer(key_bytes)
        result = library().bpf_map_get_next_key(fd, previous, following)
        if result < 0:
            if ctypes.get_errno() == errno.ENOENT:
                return
            raise BpfCallError("cannot list a map", ctypes.get_errno())
        previous = following.raw
        yield previous


class LoadedObject:
    """One .bpf.o, opened, with its maps found or made under `pin_dir`, loaded on `load`."""

    def __init__(self, path: StrPath) -> None:
        self._lib = library()
        cure = "build it with `make -C bpf`"
        self._handle = pointer(self._lib.bpf_object__open_file(os.fsencode(path), None), f"cannot open {path}", cure)
        self._path = path

    def __enter__(self) -> "LoadedObject":  # noqa: PYI034 - Self is in typing, which the loader does without
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives programs and maps back; what is pinned lives on."""
        self._lib.bpf_object__close(self._handle)

    def _each(self, following: Callable[[int, int | None], int | None]) -> Iterator[int]:
        item = following(self._handle, None)
        while item:
            yield item
            item = following(self._handle, item)

    def map_names(self) -> tuple[str, ...]:
        """Names of all maps of the object."""
        return tuple(self._lib.bpf_map__name(m).decode() for m in self._each(self._lib.bpf_object__next_map))

    def program(self, name: str) -> int:
        """The libbpf handle of a program."""
        found = self._lib.bpf_object__find_program_by_name(self._handle, name.encode())
        return pointer(found, f"{self._path} has no program {name}")

    def leave_out(self, name: str) -> None:
        """Does not load that program."""
        checked(self._lib.bpf_program__set_autoload(self.program(name), False), f"cannot leave out {name}")  # noqa: FBT003 - C call

    def pin_maps(self, pin_dir: StrPath) -> None:
        """Loading will reuse maps pinned in `pin_dir` and pin the others there."""
        for name in self.map_names():
            found = pointer(self._lib.bpf_object__find_map_by_name(self._handle, name.encode()), f"no map {name}")
            path = os.fsencode(os.path.join(pin_dir, name))
            checked(self._lib.bpf_map__set_pin_path(found, path), f"cannot set the pin path of {name}")

    def load(self) -> None:
        """Gives the programs to the verifier.

        Raises:
            BpfCallError: with libbpf's own words.
        """
        result = self._lib.bpf_object__load(self._handle)
        if result < 0:
            what = f"cannot load {self._path}\n{warnings()}\n"
            raise BpfCallError(what, -result, "root or CAP_BPF+CAP_NET_ADMIN+CAP_PERFMON is needed")

    def program_fd(self, name: str) -> int:
        """The descriptor of a loaded program; owned by this object."""
        return checked(self._lib.bpf_program__fd(self.program(name)), f"{name} is not loaded")

    def map_fd(self, name: str) -> int:
        """The descriptor of a map; owned by this object."""
        found = pointer(self._lib.bpf_object__find_map_by_name(self._handle, name.encode()), f"no map {name}")
        return checked(self._lib.bpf_map__fd(found), f"{name} is not loaded")
