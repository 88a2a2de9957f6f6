"""BCC is Debian's python3-bpfcc; PyPI's package of that name is something else."""

import bcc

assert str(bcc.__file__).startswith("/usr/lib/python3/dist-packages/")
assert bcc.BPF.support_raw_tracepoint
