"""Opens sockets on request: one request a line on standard input, one answer a line on standard output.

tcp HOST PORT       connect and close
udp HOST PORT       send one datagram to an address
keep KIND HOST PORT connect and keep the socket
send                send through the kept socket
fill BYTES          begin to send so many bytes through the kept socket, in the background
receive BYTES       read so many bytes from the kept socket
pace                answers SO_MAX_PACING_RATE of the kept socket
selftest            run the agent's self-test; answers enforced or not, and the details
"""

import contextlib
import errno
import socket
import sys
import threading

from fedge_agent.kernel.selftest import run_selftest

SO_MAX_PACING_RATE = 47
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


def _receive(kept: socket.socket, wanted: int) -> int:
    got = 0
    while got < wanted:
        part = len(kept.recv(1 << 16))
        if part == 0:
            break
        got += part
    return got


def _fill(kept: socket.socket, size: int) -> None:
    def send() -> None:
        with contextlib.suppress(OSError):  # the test ends while the connection stands still
            kept.sendall(bytes(size))

    threading.Thread(target=send, daemon=True).start()


def _with_kept(kept: socket.socket, word: str, *arguments: str) -> str:
    if word == "send":
        kept.send(b"x")
    elif word == "fill":
        _fill(kept, int(arguments[0]))
    elif word == "receive":
        return f"ok {_receive(kept, int(arguments[0]))}"
    elif word == "pace":
        return f"ok {kept.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE)}"
    return "ok"


def main() -> None:
    kept: socket.socket | None = None
    for line in sys.stdin:
        words = line.split()
        answer = "ok"
        try:
            if words[0] == "tcp":
                _connected(*words).close()
            elif words[0] == "udp":
                _datagram(*words[1:])
            elif words[0] == "keep":
                kept = _connected(*words[1:])
            elif words[0] == "selftest":
                result = run_selftest()
                answer = f"{'enforced' if result.enforced else 'open'} {result.detail}"
            elif kept is not None:
                answer = _with_kept(kept, *words)
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


main()
