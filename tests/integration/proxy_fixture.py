"""A real tinyproxy for tests: CONNECT with basic credentials, to one port."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

USER, PASSWORD = "device", "correct-horse"
_START_S = 30.0
_ATTEMPTS = 3


class Tinyproxy:
    """One tinyproxy on loopback, at a port that `start` finds. `requests` is what it was asked for, by its log."""

    def __init__(self, directory: Path, connect_port: int) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.log_file = directory / "tinyproxy.log"
        self._config = directory / "tinyproxy.conf"
        self._connect_port = connect_port
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        return shutil.which("tinyproxy") is not None

    def start(self) -> None:
        for _ in range(_ATTEMPTS):  # somebody may take the port between the look and the start
            self._configure()
            self._process = subprocess.Popen(["tinyproxy", "-d", "-c", str(self._config)], stdout=subprocess.DEVNULL)
            if self._comes_up(self._process):
                return
            self.stop()
        raise RuntimeError("tinyproxy did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_START_S)
            self._process = None

    def requests(self) -> list[str]:
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [line for line in lines if "Request (file descriptor" in line]

    def _configure(self) -> None:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = int(probe.getsockname()[1])
        self._config.write_text(
            f"Port {self.port}\nListen {self.host}\nTimeout 60\nMaxClients 20\n"
            f'LogFile "{self.log_file}"\nLogLevel Connect\n'
            f"ConnectPort {self._connect_port}\nBasicAuth {USER} {PASSWORD}\n"
        )

    def _comes_up(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        return False
