"""Runs in the machine: {"command", "timeout_s"} comes in on the serial line, {"status", "text"} goes back.

Usage: channel.py TTY
"""

import json
import os
import subprocess
import sys
import tty

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def run(command: str, timeout_s: float) -> tuple[int, str]:
    """Its status, as a shell tells it, and what it said; 124 when it took too long."""
    try:
        done = subprocess.run(  # noqa: S602 - what the test says, on a machine that is thrown away
            command,
            shell=True,
            executable="/bin/bash",
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return 124, str(error.stdout)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout


def main() -> None:
    line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    with os.fdopen(line, "rb", buffering=0, closefd=False) as raw, open(line, "wb", buffering=0, closefd=False) as out:
        out.write(b'{"ready": true}\n')
        pending = b""
        while True:
            pending += raw.read(4096)
            while b"\n" in pending:
                request, pending = pending.split(b"\n", 1)
                asked = json.loads(request)
                status, text = run(asked["command"], asked["timeout_s"])
                out.write(json.dumps({"status": status, "text": text}).encode() + b"\n")


if __name__ == "__main__":
    main()
