"""Small files and their places for the loader, which does without pathlib: it would cost it a megabyte."""

import os

StrPath = str | os.PathLike[str]


def read_text(path: StrPath) -> str:
    """A file of the kernel's, whatever bytes are in it."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def remove(path: StrPath) -> bool:
    """Removes a file; says whether there was one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def publish_text(path: StrPath, text: str) -> None:
    """Puts a file in place in one step, readable by all, and its folder."""
    folder, name = os.path.split(os.fspath(path))
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)  # noqa: S103 - the unit's umask would close it to the daemon
    fresh = os.path.join(folder, f".{name}.{os.urandom(8).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
        os.replace(fresh, path)
    except BaseException:
        remove(fresh)
        raise
