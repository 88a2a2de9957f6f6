"""Keeps out of the daemon what its libraries import for cases that never come here; each is a megabyte or near it.

* paho imports `urllib.request`, hence HTTP and e-mail, to look for a proxy; our client is given an open socket.
* ctypes.util imports `tempfile` and `shutil`, hence bz2 and lzma, to run a compiler when nothing else finds a library.
* pycryptodome prefers cffi, hence a parser of C, to the ctypes that the daemon has anyway.

The first three modules load by themselves at their first use, so nothing breaks where one is used after all.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, Final

DEFERRED: Final = ("urllib.request", "tempfile", "shutil")
ABSENT: Final = ("cffi",)


class _Deferred(ModuleType):
    """Stands for a module until somebody asks for one of its names."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks at the stand-in itself
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def install() -> None:
    """Call once, before the daemon's own imports. A module that is there already stays."""
    for name in DEFERRED:
        if name not in sys.modules:
            sys.modules[name] = stand_in = _Deferred(name)
            package, _, last = name.rpartition(".")
            if package:  # as an import does
                setattr(importlib.import_module(package), last, stand_in)
    for name in ABSENT:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]  # how the import system says: there is none
