"""Identifiers and the bounded field types that messages are made of."""

import hashlib
from typing import Annotated, Final

from msgspec import Meta

# `\Z`, because `$` also matches before a trailing newline
DEVICE_ID_PATTERN: Final = r"^[0-9a-f]{32}\Z"
FLEET_PATTERN: Final = r"^[a-z0-9-]{1,32}\Z"
JOB_PATTERN: Final = r"^[a-z0-9-]{1,48}\Z"
PRINTABLE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]*\Z"
"""No control characters: what a peer says must not steer the terminal, log or database that it ends up in."""

DeviceId = Annotated[str, Meta(pattern=DEVICE_ID_PATTERN)]
Fleet = Annotated[str, Meta(pattern=FLEET_PATTERN)]
JobName = Annotated[str, Meta(pattern=JOB_PATTERN)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE_PATTERN)]
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
