"""What the round machine is fed: journal entries. Folding the same entries always gives the same state."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from fedge_protocol.ids import Counter, DeviceId
from fedge_protocol.messages import Body, PrekeyStatement, Ready


class Kind(StrEnum):
    """Kinds of journal entries. The first five carry a device's message, the rest are the coordinator's own."""

    READY = "ready"
    SHARES = "shares"
    MASKED = "masked"
    SURVIVOR = "survivor"
    UNMASK = "unmask"
    REFUSAL = "refusal"
    CLOSE = "close"
    TICK = "tick"
    RESUME = "resume"


class Input(Body, frozen=True):
    """One accepted input. `at_ms` is Unix milliseconds; `device` is empty for the coordinator's own entries."""

    at_ms: Counter
    kind: Kind
    device: Annotated[str, Meta(max_length=32)]
    body: Annotated[bytes, Meta(max_length=256 * 1024)]


class Entry(Body, frozen=True):
    """Body of a READY entry: the message and what was true of its sender when it was accepted."""

    device: DeviceId
    ready: Ready
    prekey: PrekeyStatement
    certificate: Annotated[bytes, Meta(max_length=4096)]
    chain_address: Annotated[bytes, Meta(min_length=20, max_length=20)]
