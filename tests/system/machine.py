"""What tests do with a booted machine, whatever boots it."""

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

COMMAND_TIMEOUT_S = 300.0
WAIT_TIMEOUT_S = 180.0
_POLL_S = 0.3


class MachineError(Exception):
    """A machine did not do what it was told; the text holds its words."""


@dataclass(frozen=True)
class Done:
    """What a command in a machine said."""

    status: int
    text: str


class Machine(ABC):
    """A machine that runs shell commands as root."""

    name: str
    address: str
    """By which the other machines reach it."""

    @abstractmethod
    def run(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
        """Run a shell command."""

    def do(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command that must succeed; what it said.

        Raises:
            MachineError: it failed.
        """
        done = self.run(command, timeout_s=timeout_s)
        if done.status != 0:
            raise MachineError(f"{self.name}: {command}: status {done.status}\n{done.text}")
        return done.text

    def wait(self, command: str, good: Callable[[Done], bool], timeout_s: float = WAIT_TIMEOUT_S) -> Done:
        """Repeat a command until `good` of what it said.

        Raises:
            MachineError: not in time; with the last words.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            done = self.run(command)
            if good(done):
                return done
            if time.monotonic() > deadline_s:
                raise MachineError(f"{self.name}: {command}: not as wanted within {timeout_s} s; at last:\n{done.text}")
            time.sleep(_POLL_S)

    def write(self, path: str, text: str) -> None:
        """Make a file, and the folders above it."""
        packed = base64.b64encode(text.encode()).decode()
        self.do(f"mkdir -p $(dirname {path}) && printf %s {packed} | base64 -d >{path}")

    def journal(self, unit: str) -> str:
        """What a unit wrote."""
        return self.run(f"journalctl --no-pager --output=cat --unit={unit}").text

    def shows(self, unit: str, *properties: str) -> str:
        """Properties of a unit, one `NAME=value` a line."""
        return self.do(f"systemctl show {unit} -p {','.join(properties)}")
