"""The topic tree of the fleet: builders, the parser that trusts nothing, and the subscription filters.

```
fedge/v1/{fleet}/job/{job}/offer                          retained, coordinator -> fleet
fedge/v1/{fleet}/blob/{sha256}/{chunk}                    retained, coordinator -> fleet, raw bytes of one chunk
fedge/v1/{fleet}/device/{device}/up/{kind}                device -> coordinator
fedge/v1/{fleet}/device/{device}/up/chunk/{sha256}/{chunk}  device -> coordinator, raw bytes of one chunk
fedge/v1/{fleet}/device/{device}/down/{kind}              coordinator -> device
fedge/v1/{fleet}/device/{device}/presence                 retained birth and last will
```
"""

import re
from dataclasses import dataclass
from typing import Final

from fedge_protocol.errors import Reason, RefusedError
from fedge_protocol.ids import DEVICE_ID_PATTERN, FLEET_PATTERN, JOB_PATTERN

PREFIX: Final = "fedge/v1"
MAX_CHUNKS: Final = 65_536
CHUNK_KIND: Final = "chunk"

_LONGEST: Final = 256
_FLEET: Final = re.compile(FLEET_PATTERN)
_JOB: Final = re.compile(JOB_PATTERN)
_DEVICE: Final = re.compile(DEVICE_ID_PATTERN)
_KIND: Final = re.compile(r"^[a-z-]{1,24}\Z")
_SHA256: Final = re.compile(r"^[0-9a-f]{64}\Z")
_NUMBER: Final = re.compile(r"^(0|[1-9][0-9]{0,4})\Z")
_GROUP: Final = re.compile(r"^[a-z0-9-]{1,32}\Z")


@dataclass(frozen=True, slots=True)
class OfferTopic:
    """Where the offer of a job's open round is retained."""

    fleet: str
    job: str


@dataclass(frozen=True, slots=True)
class BlobTopic:
    """Where one chunk of a published blob is retained; `sha256_hex` names the whole blob."""

    fleet: str
    sha256_hex: str
    chunk: int


@dataclass(frozen=True, slots=True)
class UpTopic:
    """A message of a device to the coordinator."""

    fleet: str
    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class UpChunkTopic:
    """One chunk of a blob that a device announced in a signed message before."""

    fleet: str
    device: str
    sha256_hex: str
    chunk: int


@dataclass(frozen=True, slots=True)
class DownTopic:
    """A message of the coordinator to a device."""

    fleet: str
    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class PresenceTopic:
    """Where a device's birth and death are retained."""

    fleet: str
    device: str


Topic = OfferTopic | BlobTopic | UpTopic | UpChunkTopic | DownTopic | PresenceTopic


def offer(fleet: str, job: str) -> str:
    """Topic of a job's offer. As every builder here, raises `RefusedError(wrong-topic)` on a bad name."""
    return f"{_root(fleet)}/job/{_checked(_JOB, 'job', job)}/offer"


def blob(fleet: str, sha256_hex: str, chunk: int) -> str:
    """Topic of chunk number `chunk` (from 0) of the blob with this SHA-256."""
    return f"{_root(fleet)}/blob/{_checked(_SHA256, 'sha256', sha256_hex)}/{_number(chunk)}"


def up(fleet: str, device: str, kind: str) -> str:
    """Topic of a message of `kind` from a device."""
    return f"{_device(fleet, device)}/up/{_checked(_KIND, 'kind', kind)}"


def up_chunk(fleet: str, device: str, sha256_hex: str, chunk: int) -> str:
    """Topic of a chunk from a device. The payload is the bare chunk, so that 128 KiB stay 128 KiB."""
    return f"{_device(fleet, device)}/up/{CHUNK_KIND}/{_checked(_SHA256, 'sha256', sha256_hex)}/{_number(chunk)}"


def down(fleet: str, device: str, kind: str) -> str:
    """Topic of a message of `kind` to a device."""
    return f"{_device(fleet, device)}/down/{_checked(_KIND, 'kind', kind)}"


def presence(fleet: str, device: str) -> str:
    """Topic of a device's birth and death."""
    return f"{_device(fleet, device)}/presence"


def offers_filter(fleet: str, job: str | None = None) -> str:
    """Filter for the offers of one job, or of all jobs of the fleet."""
    return offer(fleet, job) if job is not None else f"{_root(fleet)}/job/+/offer"


def blob_filter(fleet: str, sha256_hex: str) -> str:
    """Filter for every chunk of one blob."""
    return f"{_root(fleet)}/blob/{_checked(_SHA256, 'sha256', sha256_hex)}/+"


def down_filter(fleet: str, device: str) -> str:
    """Filter for everything sent to one device."""
    return f"{_device(fleet, device)}/down/+"


def up_filter(fleet: str) -> str:
    """Filter for everything sent by all devices, chunks included."""
    return f"{_root(fleet)}/device/+/up/#"


def presence_filter(fleet: str) -> str:
    """Filter for the births and deaths of all devices."""
    return f"{_root(fleet)}/device/+/presence"


def shared(group: str, topic_filter: str) -> str:
    """The same filter as a shared subscription: each message goes to one member of the group (MQTT 5, 4.8.2)."""
    return f"$share/{_checked(_GROUP, 'group', group)}/{topic_filter}"


def parse(topic: str) -> Topic:
    """Decode the topic of a received message.

    Raises:
        RefusedError: `wrong-topic` when it is no topic of the tree, or a name in it is out of its bounds.
    """
    if len(topic) > _LONGEST:
        raise RefusedError(Reason.WRONG_TOPIC, f"{len(topic)} characters, at most {_LONGEST}")
    match topic.split("/"):
        case ["fedge", "v1", fleet, "job", job, "offer"]:
            found: Topic = OfferTopic(fleet, _checked(_JOB, "job", job))
        case ["fedge", "v1", fleet, "blob", sha256_hex, chunk]:
            found = BlobTopic(fleet, _checked(_SHA256, "sha256", sha256_hex), _parsed_number(chunk))
        case ["fedge", "v1", fleet, "device", device, "up", kind]:
            found = UpTopic(fleet, _checked(_DEVICE, "device", device), _checked(_KIND, "kind", kind))
        case ["fedge", "v1", fleet, "device", device, "up", "chunk", sha256_hex, chunk]:
            sender = _checked(_DEVICE, "device", device)
            found = UpChunkTopic(fleet, sender, _checked(_SHA256, "sha256", sha256_hex), _parsed_number(chunk))
        case ["fedge", "v1", fleet, "device", device, "down", kind]:
            found = DownTopic(fleet, _checked(_DEVICE, "device", device), _checked(_KIND, "kind", kind))
        case ["fedge", "v1", fleet, "device", device, "presence"]:
            found = PresenceTopic(fleet, _checked(_DEVICE, "device", device))
        case _:
            raise RefusedError(Reason.WRONG_TOPIC, f"not of the tree: {topic!r}")
    _checked(_FLEET, "fleet", found.fleet)
    return found


def _root(fleet: str) -> str:
    return f"{PREFIX}/{_checked(_FLEET, 'fleet', fleet)}"


def _device(fleet: str, device: str) -> str:
    return f"{_root(fleet)}/device/{_checked(_DEVICE, 'device', device)}"


def _checked(pattern: re.Pattern[str], what: str, value: str) -> str:
    if pattern.fullmatch(value) is None:  # fullmatch: `$` alone would let a trailing newline through
        raise RefusedError(Reason.WRONG_TOPIC, f"{what} {value!r} is not {pattern.pattern}")
    return value


def _number(chunk: int) -> str:
    if not 0 <= chunk < MAX_CHUNKS:
        raise RefusedError(Reason.WRONG_TOPIC, f"chunk {chunk} is not in 0..{MAX_CHUNKS - 1}")
    return str(chunk)


def _parsed_number(text: str) -> int:
    chunk = int(_checked(_NUMBER, "chunk", text))
    _number(chunk)
    return chunk
