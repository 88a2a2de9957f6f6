"""Unpack a compressed kernel, so that the emulated machine need not: unpack_kernel.py VMLINUZ VMLINUX.

QEMU starts an ELF kernel by its PVH note. Boot protocol: Documentation/x86/boot.rst, payload_offset and payload_length.
"""

import subprocess
import sys
from pathlib import Path

SETUP_SECTS, PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x1F1, 0x248, 0x24C
UNPACKERS = {b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"], b"\xfd7zXZ\x00": ["xz", "-dc"]}

image = Path(sys.argv[1]).read_bytes()
start = (image[SETUP_SECTS] + 1) * 512 + int.from_bytes(image[PAYLOAD_OFFSET : PAYLOAD_OFFSET + 4], "little")
payload = image[start : start + int.from_bytes(image[PAYLOAD_LENGTH : PAYLOAD_LENGTH + 4], "little")]
for magic, command in UNPACKERS.items():
    if payload.startswith(magic):
        # the last four bytes are the unpacked size, which is no part of the compressed stream
        kernel = subprocess.run(command, input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
        break
else:
    sys.exit(f"{sys.argv[1]}: compressed by something unknown: {payload[:8].hex()}")
if not kernel.startswith(b"\x7fELF"):
    sys.exit(f"{sys.argv[1]}: no ELF kernel inside")
Path(sys.argv[2]).write_bytes(kernel)
