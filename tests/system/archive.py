"""A web server for the signed archive, as machines of a network see it, over a copy that a test may spoil."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.system.lan import Lan

KEYRING = "fedge-archive-keyring.pgp"


class Archive:
    """Serves a copy of `original`, so that a test may change what is served."""

    def __init__(self, lan: Lan, original: Path, folder: Path) -> None:
        shutil.copytree(original, folder, copy_function=_link)
        self.folder = folder
        self.url = f"http://{lan.address}:8000"
        inside = ["ip", "netns", "exec", lan.name]
        serve = [sys.executable, "-m", "http.server", "--directory", str(folder), "--bind", lan.address, "8000"]
        self._server = subprocess.Popen([*inside, *serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asked = [*inside, "bash", "-c", f"exec 3<>/dev/tcp/{lan.address}/8000"]
        while subprocess.run(asked, capture_output=True, check=False).returncode:
            self._server.poll()
            time.sleep(0.1)

    def close(self) -> None:
        """End the server and drop the copy."""
        self._server.terminate()
        self._server.wait(30)
        shutil.rmtree(self.folder)


def _link(source: str, target: str) -> None:
    """Packages are large and only read; indices are small and may be spoiled."""
    if source.endswith(".deb"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)
