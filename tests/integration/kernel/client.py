"""Opens sockets on request: one request a line on standard input, one answer a line on standard output.

tcp HOST PORT       connect and close
udp HOST PORT       send one datagram to an address
keep KIND HOST PORT connect and keep the socket
send                send through the kept socket
selftest            run the agent's self-test; answers enforced or not, and the details
"""

import errno
import socket
import sys

from fedge_agent.kernel.selftest import run_selftest

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def _connected(kind: str, host: str, port: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, KINDS[kind])
    made.settimeout(5)
    made.connect((host, int(port)))
    return made


def _datagram(host: str, port: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", (host, int(port)))


def _answer(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    kept: socket.socket | None = None
    for line in sys.stdin:
        words = line.split()
        try:
            if words[0] == "tcp":
                _connected(*words).close()
            elif words[0] == "udp":
                _datagram(*words[1:])
            elif words[0] == "keep":
                kept = _connected(*words[1:])
            elif words[0] == "send" and kept is not None:
                kept.send(b"x")
            elif words[0] == "selftest":
                result = run_selftest()
                _answer(f"{'enforced' if result.enforced else 'open'} {result.detail}")
                continue
            _answer("ok")
        except OSError as error:
            _answer(errno.errorcode.get(error.errno or 0, str(error)))


main()
