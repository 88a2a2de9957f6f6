"""`fedge-agent inference`: the inference server, started by its socket."""

import argparse
import logging
import sys
from typing import Final

from fedge_agent.config import EX_CONFIG, Config
from fedge_agent.inference.server import Limits, ListenError, handed_over, run
from fedge_agent.local_socket import bound

EX_OK: Final = 0
EX_USAGE: Final = 2
_KIB: Final = 1024


def serve(config: Config, options: argparse.Namespace) -> int:
    """Serve on systemd's sockets, and end when idle; or on one's own, until stopped."""
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        listeners = handed_over()
    except ListenError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_CONFIG
    idle_s: float | None = config.inference.idle_exit_s
    if not listeners:
        if options.socket is None:
            print(
                "fedge-agent: systemd handed over no socket; systemctl start fedge-inference.socket, or give --socket",
                file=sys.stderr,
            )
            return EX_USAGE
        listeners, idle_s = [bound(options.socket)], None
    run(listeners, config.model_dir, Limits(idle_s, config.inference.max_request_kib * _KIB))
    return EX_OK
