"""Child processes: started with their output in a file, watched, ended by their pid in reverse order."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_S = 0.05
_TERM_GRACE_S = 8.0
_TAIL_LINES = 15


class DemoError(Exception):
    """The demo cannot go on; says what failed, and shows the end of its log."""


class Child:
    """One process and its log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        cgroup: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        if cgroup is not None:
            # Join the cgroup first: a socket belongs to the cgroup in which it is made.
            command = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup), *command]
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own programs
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **env} if env else None,
            )

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def check(self) -> None:
        """Raises: DemoError: it has ended."""
        if not self.running:
            raise DemoError(f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (it printed nothing)"

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, then SIGKILL after a while."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_TERM_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()


class Children:
    """All processes of the demo."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def start(
        self, name: str, command: Sequence[str], *, cgroup: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start a process."""
        child = Child(name, command, self._logs / f"{name}.log", cgroup=cgroup, env=env)
        self._children.append(child)
        return child

    def stop_all(self) -> None:
        """End all of them, the last started first."""
        for child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                if child.running:
                    child.process.send_signal(signal.SIGTERM)
        for child in reversed(self._children):
            child.terminate()


def run(command: Sequence[str], *, timeout_s: float = 60.0, stdin: str | None = None) -> str:
    """Run a command to its end; returns what it printed.

    Raises:
        DemoError: it failed.
    """
    done = subprocess.run(  # noqa: S603 - our own programs
        command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command[:3])} failed with status {done.returncode}:\n  {done.stderr.strip()}")
    return done.stdout


def wait_until(ready: Callable[[], bool], what: str, *, timeout_s: float, child: Child | None = None) -> None:
    """Wait for something that a process does.

    Raises:
        DemoError: it did not happen in time, or the process ended.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if child is not None:
            child.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {timeout_s:.0f} s" + (f"\n{child.tail()}" if child else ""))
        time.sleep(_POLL_S)


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
