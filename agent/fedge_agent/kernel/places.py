"""Where the kernel layer keeps what it needs."""

from pathlib import Path

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/fedge")
INSTALLED_OBJECTS = Path("/usr/lib/fedge/bpf")
REPOSITORY_OBJECTS = Path(__file__).parents[3] / "bpf" / "build"


def find_objects() -> Path:
    """The directory of the .bpf.o files: the installed one, or the repository's build."""
    return INSTALLED_OBJECTS if INSTALLED_OBJECTS.is_dir() else REPOSITORY_OBJECTS
