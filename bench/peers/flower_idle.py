"""Flower's idle device: one SuperNode connected to one SuperLink on loopback, without TLS, nothing to train."""

import os
import subprocess
from pathlib import Path
from typing import Final, Self

from fedge_coordinator.demo.processes import Children, accepts, free_port, wait_until

PEER: Final = "Flower SuperNode"
_SETTLE_TIMEOUT_S: Final = 90.0


class FlowerIdle:
    """A SuperLink and a SuperNode, as `with`; `node` is the SuperNode's process id.

    Args:
        python: interpreter of an environment that has flwr.
        folder: for logs and its state.
        port: of the SuperLink.
    """

    def __init__(self, python: Path, folder: Path, port: int) -> None:
        self.version = subprocess.run(
            [str(python), "-c", "from importlib.metadata import version; print(version('flwr'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self._programs = python.parent
        folder.mkdir()
        self._folder, self.port = folder, port
        self._children = Children(folder)
        self.node = 0

    def __enter__(self) -> Self:
        environment = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(self._folder),
            "PATH": f"{self._programs}:{os.environ['PATH']}",
        }
        try:
            self._start(environment)
        except BaseException:
            self._children.stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._children.stop_all()

    def _start(self, environment: dict[str, str]) -> None:
        link = self._children.start(
            "superlink",
            [str(self._programs / "flower-superlink"), "--insecure", "--port", str(self.port)],
            env=environment,
        )
        wait_until(lambda: accepts(self.port), "Flower's SuperLink", timeout_s=_SETTLE_TIMEOUT_S, child=link)
        node_port = free_port()
        command = [str(self._programs / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.port}"]
        node = self._children.start("supernode", [*command, "--port", str(node_port)], env=environment)
        wait_until(lambda: accepts(node_port), "Flower's SuperNode", timeout_s=_SETTLE_TIMEOUT_S, child=node)
        self.node = node.process.pid
