"""The file that carries the day's bytes over restarts, root's own; and what a new day means."""

import os
import struct
import time

from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.policy_records import Budget
from fedge_agent.kernel.text_files import StrPath, remove

DEFAULT_DIRECTORY = "/var/lib/fedge-bpf"
_DAY_S = 86_400
_MAX_FILE_BYTES = 4096
_VERSION = 1
# 2025-01-01: a clock before this has not been set since the device booted without a battery.
EARLIEST_DAY = 20_089


def today(now_s: float | None = None) -> int:
    """Days since 1970-01-01 UTC."""
    return int((time.time() if now_s is None else now_s) // _DAY_S)


def carried(prior: Budget | None, limit_bytes: int, day: int) -> Budget:
    """The budget to go on with: full on a new day, otherwise what is left of `prior` under the present limit.

    A clock that went back fills nothing up; a clock that was never set does not even change the day.
    """
    if prior is None or day > prior.day:
        return Budget(limit_bytes, limit_bytes, day)
    left = min(prior.left_bytes + limit_bytes - prior.limit_bytes, limit_bytes)
    return Budget(left, limit_bytes, day if day >= EARLIEST_DAY else prior.day)


def read(path: StrPath) -> Budget | None:
    """What was saved; None when nothing was.

    Raises:
        PolicyError: damaged, or in hands that could have changed it; the message names the cure.
    """
    import json  # noqa: PLC0415 - 350 kB, for this alone

    cure = f"remove {path} to begin with a full budget"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(f"budget {path} cannot be read: {error.strerror}; {cure}") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PolicyError(f"budget {path} belongs to uid {status.st_uid} or others may write it; {cure}")
        try:
            found = json.loads(file.read(_MAX_FILE_BYTES))
            if found["version"] != _VERSION:
                raise PolicyError(f"budget {path} has version {found['version']}, not {_VERSION}; {cure}")
            saved = Budget(int(found["left_bytes"]), int(found["limit_bytes"]), int(found["day"]))
            saved.encode()
        except (ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
            raise PolicyError(f"budget {path} is damaged ({error}); {cure}") from error
    return saved


def write(path: StrPath, budget: Budget) -> None:
    """Saves it, so that a power cut leaves the old file or the new one."""
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    fresh = os.path.join(folder, f".{name}.new")
    remove(fresh)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:
        numbers = f'"left_bytes": {budget.left_bytes}, "limit_bytes": {budget.limit_bytes}, "day": {budget.day}'
        file.write(f'{{"version": {_VERSION}, {numbers}}}\n')
        file.flush()
        os.fsync(descriptor)
    os.replace(fresh, path)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
