"""`fedge-agent run`: what the daemon waits for, the daemon, and the exit status that tells how it ended."""

import dataclasses
import logging
import os
import sys
from typing import Final

import msgspec

from fedge_agent import deferred
from fedge_agent.config import EX_CONFIG, Config

PINS_VARIABLE: Final = "FEDGE_PIN_DIR"
"""Where the unit shows the daemon its pins: systemd keeps /sys/fs/bpf itself closed to everybody but root."""
EX_OK: Final = 0
EX_FAILED: Final = 1
EX_NOT_ENROLLED: Final = 3


def run(config: Config) -> int:
    """Run the daemon until it is told to stop; returns the exit status."""
    deferred.install()  # before anything of the daemon is imported, which nobody else pays for
    from fedge_agent import waiting  # noqa: PLC0415
    from fedge_agent.identity.errors import IdentityError, NotEnrolledError  # noqa: PLC0415
    from fedge_agent.kernel_layer import AdmissionRequiredError  # noqa: PLC0415
    from fedge_agent.store import StoreUnusableError  # noqa: PLC0415

    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    pins = os.environ.get(PINS_VARIABLE)
    if pins is not None:
        config = dataclasses.replace(config, kernel=msgspec.structs.replace(config.kernel, pin_dir=pins))
    try:
        if not waiting.until_clear(config.state_dir):
            return EX_OK
        from fedge_agent import daemon  # noqa: PLC0415 - nor does a device pay that still waits

        if daemon.run(config):
            # The owner leaves the fleet. The same process waits on, with nothing of the membership in its memory.
            sys.stderr.flush()
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - itself, as it was started
        return EX_OK  # noqa: TRY300 - it is how a daemon ends
    except NotEnrolledError as error:
        return _told(error, EX_NOT_ENROLLED)
    except (IdentityError, AdmissionRequiredError) as error:
        return _told(error, EX_CONFIG)
    except StoreUnusableError as error:
        return _told(error, EX_FAILED)


def _told(error: Exception, status: int) -> int:
    print(f"fedge-agent: {error}", file=sys.stderr)
    return status
