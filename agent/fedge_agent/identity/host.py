"""What tells this machine from others, as keyed hashes: whoever sees them can compare, and learn nothing else.

The key follows from the identity key, which a copied disk carries along. So two copies of a disk give different hashes
on different machines, and nobody without the key can try serial numbers until one fits.
"""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent.identity.keys import Identity

MACHINE_ID: Final = "etc/machine-id"
HARDWARE: Final = (
    "sys/firmware/devicetree/base/serial-number",
    "sys/class/dmi/id/product_uuid",
    "run/fedge-host/product_uuid",
    "sys/devices/soc0/serial_number",
)
"""In this order. The third is a copy of the second, which only root may read (`systemd/fedge-agent.tmpfiles`)."""
_MAX_BYTES: Final = 256
_FEWEST_SIGNS: Final = 3
"""Different characters in a serial number; zeros, or `none`, are what a maker leaves in it."""
_PLACEHOLDERS: Final = frozenset(
    {
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "default string",
        "not applicable",
        "not specified",
        "system serial number",
        "to be filled by o.e.m.",
        "uninitialized",
    }
)


@dataclass(frozen=True, slots=True)
class Host:
    """Keyed hashes (32 bytes) of machine-id and hardware serial number; empty when there is none to be read."""

    machine: bytes
    hardware: bytes


def host_of(identity: Identity, fleet: str, *, root: Path = Path("/")) -> Host:
    """Read what there is, never failing.

    Args:
        identity: whose key the hashes are keyed with.
        fleet: of another fleet they are others.
        root: of the file system.
    """
    secret = identity.key.private_numbers().private_value.to_bytes(32, "big")
    key = hmac.digest(secret, b"fedge/v1 host\x00" + fleet.encode(), hashlib.sha256)
    machine, hardware = _first([root / MACHINE_ID]), _first([root / name for name in HARDWARE])
    return Host(_keyed(key, b"machine\x00", machine), _keyed(key, b"hardware\x00", hardware))


def _keyed(key: bytes, label: bytes, value: str) -> bytes:
    return hmac.digest(key, label + value.encode(), hashlib.sha256) if value else b""


def _first(paths: list[Path]) -> str:
    return next((value for value in map(_value, paths) if value), "")


def _value(path: Path) -> str:
    """What a file says in one line; empty when it cannot be read or says nothing of this machine."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).rstrip(b"\x00\n ").decode("ascii").strip().lower()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if text in _PLACEHOLDERS or len(set(text) - {"-", "0"}) < _FEWEST_SIGNS else text
