"""A real tinyproxy for tests: CONNECT with basic credentials, to one port or to none."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

USER, PASSWORD = "device", "correct-horse"
_START_S = 10.0


class Tinyproxy:
    """One tinyproxy on loopback. `requests` is what it was asked for, as its log says."""

    def __init__(self, directory: Path, connect_port: int, *, address: str = "127.0.0.1", secret: bool = True) -> None:
        self.host = address
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = int(probe.getsockname()[1])
        self.log_file = directory / "tinyproxy.log"
        self._config = directory / "tinyproxy.conf"
        self._config.write_text(
            f"Port {self.port}\nListen {address}\nTimeout 60\nMaxClients 20\n"
            f'LogFile "{self.log_file}"\nLogLevel Connect\n'
            f"ConnectPort {connect_port}\n" + (f"BasicAuth {USER} {PASSWORD}\n" if secret else "")
        )
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        return shutil.which("tinyproxy") is not None

    def start(self) -> None:
        self._process = subprocess.Popen(["tinyproxy", "-d", "-c", str(self._config)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("tinyproxy did not start")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_START_S)
            self._process = None

    def requests(self) -> list[str]:
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [line for line in lines if "Request (file descriptor" in line]

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True
