"""bcc (Debian's python3-bpfcc): compiles the shipped source on this device, without kernel headers, and loads it."""

import os
from pathlib import Path

import bcc

from fedge_agent.kernel.bcc_compiler import CompiledSource
from fedge_agent.kernel.programs import ObjectName

assert str(bcc.__file__).startswith("/usr/lib/python3/dist-packages/"), "PyPI's package of that name is something else"
assert not Path(f"/lib/modules/{os.uname().release}/build").exists(), "no kernel headers here"
compiled = CompiledSource("/usr/lib/fedge/bpf/admission.bcc.c", ObjectName.ADMISSION, {})
assert compiled is not None
