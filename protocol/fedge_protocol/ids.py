"""Identifiers and the bounded field types that messages are made of."""

import hashlib
from typing import Annotated, Final

from msgspec import Meta

DEVICE_ID_PATTERN: Final = "^[0-9a-f]{32}$"
FLEET_PATTERN: Final = "^[a-z0-9-]{1,32}$"
JOB_PATTERN: Final = "^[a-z0-9-]{1,48}$"

DeviceId = Annotated[str, Meta(pattern=DEVICE_ID_PATTERN)]
Fleet = Annotated[str, Meta(pattern=FLEET_PATTERN)]
JobName = Annotated[str, Meta(pattern=JOB_PATTERN)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Hash32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
Signature65 = Annotated[bytes, Meta(min_length=65, max_length=65)]
Address20 = Annotated[bytes, Meta(min_length=20, max_length=20)]
Nonce16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Counter = Annotated[int, Meta(ge=0, le=2**53)]
Small = Annotated[int, Meta(ge=0, le=65535)]


def device_id_of(spki_der: bytes) -> str:
    """The name of the device that holds the P-256 key with this SubjectPublicKeyInfo (DER): 32 hex characters."""
    return hashlib.sha256(spki_der).hexdigest()[:32]

