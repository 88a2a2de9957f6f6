"""What can go wrong between the agent and the kernel."""

import os


class KernelLayerError(Exception):
    """The kernel layer cannot do what was asked; the message ends with the cure."""


class LibbpfMissingError(KernelLayerError):
    """libbpf.so.1 is not installed."""


class BpfCallError(KernelLayerError):
    """A libbpf call failed.

    Attributes:
        errno: the positive error number the kernel or libbpf gave.
    """

    def __init__(self, what: str, errno: int, cure: str = "") -> None:
        self.errno = errno
        super().__init__(f"{what}: {os.strerror(errno)} (errno {errno}){'; ' + cure if cure else ''}")


class PolicyError(KernelLayerError):
    """An allow rule or policy file is not acceptable."""


class NameUnknownError(PolicyError):
    """The resolver says that there is no such host name."""


class ResolverError(KernelLayerError):
    """A host name cannot be resolved now; it may be later."""


class BpffsMissingError(KernelLayerError):
    """The pin directory is not on a BPF file system."""


class CgroupError(KernelLayerError):
    """There is no usable cgroup v2 where one is needed."""


class BccMissingError(KernelLayerError):
    """bcc is not installed."""


class BccError(KernelLayerError):
    """bcc could not compile or load the source."""
