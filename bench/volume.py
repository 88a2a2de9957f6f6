"""A small ext4 file system of its own, so that every byte that reaches the disk is seen: journal and inodes too."""

import subprocess
import time
from pathlib import Path
from typing import Final

_SIZE: Final = "256M"
_SECTOR_BYTES: Final = 512
_COMMIT_S: Final = 8.0
"""Longer than ext4's commit interval of 5 s."""


class Volume:
    """A loop device at `place`, which is made. Root only.

    Raises:
        OSError: this machine has no loop devices, or this is not root.
    """

    def __init__(self, image: Path, place: Path) -> None:
        self._place = place
        place.mkdir(parents=True)
        quiet = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)]
        for command in (["truncate", "-s", _SIZE, str(image)], quiet, ["mount", "-o", "loop", str(image), str(place)]):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{command[0]}: {done.stderr.strip()}")
        fields = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        self._device = next(field[0] for field in fields if field[1] == str(place)).removeprefix("/dev/")

    def settle(self) -> None:
        """Let what was written before reach the disk, so that it does not count."""
        subprocess.run(["sync", "-f", str(self._place)], check=True)
        time.sleep(_COMMIT_S)
        subprocess.run(["sync", "-f", str(self._place)], check=True)

    def written_bytes(self) -> int:
        """What the block device was given to write so far."""
        return int(Path(f"/sys/block/{self._device}/stat").read_text().split()[6]) * _SECTOR_BYTES

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self._place)], check=False)
