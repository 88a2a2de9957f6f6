"""What the daemon waits for before it starts: an enrolment, and a clock that has reached it. Quiet, never a crash."""

import enum
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sdnotify
from cryptography import x509

from fedge_agent.identity.record import CERTIFICATE_PEM, RECORD

LEAVING: Final = "leaving.json"
"""There while `fedge-agent leave` is under way."""
_log = logging.getLogger(__name__)
_LOOK_AGAIN_S: Final = 2.0
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_MAX_PEM_BYTES: Final = 64 * 1024
Notify = Callable[[str], None]
Sleep = Callable[[float], bool]


class Obstacle(enum.Enum):
    """What stands in the daemon's way."""

    LEAVING = "leaving"
    NOT_ENROLLED = "not enrolled"
    CLOCK = "clock"


def obstacle(state_dir: Path, now: float) -> tuple[Obstacle, str] | None:
    """Why the daemon cannot start yet, and the same in one line with its cure; or None. `now` in Unix seconds.

    A damaged certificate is none: the daemon itself refuses it, by name.
    """
    if (state_dir / LEAVING).exists():
        return Obstacle.LEAVING, "leaving the fleet: fedge-agent leave, given again, finishes what was begun"
    if not (state_dir / RECORD).exists():
        return Obstacle.NOT_ENROLLED, "not enrolled: fedge-agent enroll TOKEN"
    begin = _valid_from(state_dir / CERTIFICATE_PEM)
    if begin is not None and now < begin:
        line = f"the clock says {_date(now)}, this device's certificate begins at {_date(begin)}"
        return Obstacle.CLOCK, f"{line}: waiting for time synchronisation (timedatectl)"
    return None


def until_clear(
    state_dir: Path,
    *,
    notify: Notify | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Sleep | None = None,
) -> bool:
    """Wait until nothing stands in the daemon's way. Each obstacle is logged once and shown as the unit's status.

    Args:
        state_dir: where an enrolment will be.
        notify: takes lines for systemd.
        clock: Unix seconds.
        sleep: waits so many seconds; True when told to stop meanwhile.

    Returns:
        False when told to stop (SIGTERM, SIGINT) first.
    """
    told: Notify = notify if notify is not None else sdnotify.SystemdNotifier().notify
    if sleep is not None:
        return _wait(state_dir, told, clock, sleep)
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        return _wait(state_dir, told, clock, _sleep)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _wait(state_dir: Path, notify: Notify, clock: Callable[[], float], sleep: Sleep) -> bool:
    said: Obstacle | None = None
    while (found := obstacle(state_dir, clock())) is not None:
        kind, line = found
        if kind is not said:
            _log.warning("%s", line)
            notify(f"READY=1\nSTATUS={line}")
            said = kind
        notify("WATCHDOG=1")
        if sleep(_LOOK_AGAIN_S):
            notify("STOPPING=1")
            return False
    return True


def _sleep(seconds: float) -> bool:
    return signal.sigtimedwait(_STOPPING, seconds) is not None


def _valid_from(path: Path) -> float | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PEM_BYTES)
        return x509.load_pem_x509_certificate(content).not_valid_before_utc.timestamp()
    except (OSError, ValueError):
        return None


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))
