"""The EIP-712 structs that devices and the committee sign, encoded by hand as 32-byte words.

The contracts compute the same hashes (`contracts/src`); eth-account is the oracle in the tests. It is not imported here
because a device would pay 25 MB and 0.6 CPU-seconds for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from fedge_protocol.keccak import keccak256

ADDRESS_BYTES = 20
WORD_BYTES = 32
ZERO_ADDRESS = bytes(ADDRESS_BYTES)
ZERO_WORD = bytes(WORD_BYTES)
DOMAIN_NAME = "Fedge"
DOMAIN_VERSION = "1"
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


class EncodingError(ValueError):
    """A value does not fit the Solidity type it is meant for; the message names the field and the value's size."""


def uint_word(value: int, bits: int, name: str) -> bytes:
    """Return `value` as the 32-byte big-endian word of a Solidity `uint{bits}`.

    Raises:
        EncodingError: when the value is negative or needs more than `bits` bits.
    """
    if not 0 <= value < 1 << bits:
        raise EncodingError(f"{name}: {value} does not fit uint{bits}")
    return value.to_bytes(WORD_BYTES, "big")


def bytes32_word(value: bytes, name: str) -> bytes:
    """Return `value` unchanged when it has exactly 32 bytes.

    Raises:
        EncodingError: for any other length.
    """
    if len(value) != WORD_BYTES:
        raise EncodingError(f"{name}: {len(value)} bytes where bytes32 is wanted")
    return bytes(value)


def address_word(value: bytes, name: str) -> bytes:
    """Return a 20-byte address left-padded to a word.

    Raises:
        EncodingError: for any other length.
    """
    if len(value) != ADDRESS_BYTES:
        raise EncodingError(f"{name}: {len(value)} bytes where a 20-byte address is wanted")
    return bytes(WORD_BYTES - ADDRESS_BYTES) + bytes(value)


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature counts: one contract on one chain. Without a chain: chain id 0 and the zero address."""

    chain_id: int = 0
    verifying_contract: bytes = ZERO_ADDRESS

    def separator(self) -> bytes:
        """Return the 32-byte domain separator.

        Raises:
            EncodingError: when a field does not fit its type.
        """
        return keccak256(
            keccak256(_DOMAIN_TYPE.encode())
            + keccak256(DOMAIN_NAME.encode())
            + keccak256(DOMAIN_VERSION.encode())
            + uint_word(self.chain_id, 256, "chainId")
            + address_word(self.verifying_contract, "verifyingContract")
        )


class TypedStruct(Protocol):
    """Anything with an EIP-712 type string and its encoded fields."""

    TYPE: ClassVar[str]

    def words(self) -> Sequence[bytes]:
        """Return the fields as 32-byte words in the order of `TYPE`."""
        ...  # pragma: no cover


def struct_hash(struct: TypedStruct) -> bytes:
    """Return `hashStruct(struct)` of EIP-712, 32 bytes.

    Raises:
        EncodingError: when a field does not fit its type.
    """
    return keccak256(keccak256(struct.TYPE.encode()) + b"".join(struct.words()))


def digest(domain: Domain, struct: TypedStruct) -> bytes:
    """Return the 32 bytes that are signed for `struct` in `domain`.

    Raises:
        EncodingError: when a field does not fit its type.
    """
    return keccak256(b"\x19\x01" + domain.separator() + struct_hash(struct))


@dataclass(frozen=True, slots=True)
class DeviceBinding:
    """A device's chain key consents to stand for a device id and names who is paid. Verified by DeviceRegistry."""

    TYPE: ClassVar[str] = "DeviceBinding(bytes32 deviceId,address device,address payout,bytes32 nonce,uint64 notAfter)"

    device_id: bytes
    device: bytes
    payout: bytes
    nonce: bytes
    not_after: int

    def words(self) -> tuple[bytes, ...]:
        """Return the five fields as words."""
        return (
            bytes32_word(self.device_id, "deviceId"),
            address_word(self.device, "device"),
            address_word(self.payout, "payout"),
            bytes32_word(self.nonce, "nonce"),
            uint_word(self.not_after, 64, "notAfter"),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A device's statement that it contributed exactly this masked update to this attempt of a bucket."""

    TYPE: ClassVar[str] = "Receipt(bytes32 jobId,uint64 round,uint32 attempt,bytes32 bucketRoot,bytes32 updateHash)"

    job_id: bytes
    round: int
    attempt: int
    bucket_root: bytes
    update_hash: bytes

    def words(self) -> tuple[bytes, ...]:
        """Return the five fields as words."""
        return (
            bytes32_word(self.job_id, "jobId"),
            uint_word(self.round, 64, "round"),
            uint_word(self.attempt, 32, "attempt"),
            bytes32_word(self.bucket_root, "bucketRoot"),
            bytes32_word(self.update_hash, "updateHash"),
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One link of a job's model history, verified by ModelRegistry. Its struct hash is the next one's `parent`."""

    TYPE: ClassVar[str] = (
        "Checkpoint(bytes32 jobId,uint64 round,bytes32 parent,bytes32 modelHash,bytes32 aggregateHash,"
        "bytes32 cohortRoot,bytes32 participationRoot,bytes32 metricsHash,uint64 participants,uint64 totalWeight)"
    )

    job_id: bytes
    round: int
    parent: bytes
    model_hash: bytes
    aggregate_hash: bytes
    cohort_root: bytes
    participation_root: bytes
    metrics_hash: bytes
    participants: int
    total_weight: int

    def words(self) -> tuple[bytes, ...]:
        """Return the ten fields as words."""
        return (
            bytes32_word(self.job_id, "jobId"),
            uint_word(self.round, 64, "round"),
            bytes32_word(self.parent, "parent"),
            bytes32_word(self.model_hash, "modelHash"),
            bytes32_word(self.aggregate_hash, "aggregateHash"),
            bytes32_word(self.cohort_root, "cohortRoot"),
            bytes32_word(self.participation_root, "participationRoot"),
            bytes32_word(self.metrics_hash, "metricsHash"),
            uint_word(self.participants, 64, "participants"),
            uint_word(self.total_weight, 64, "totalWeight"),
        )


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a job starts from. Nobody signs it: its struct hash is the first head, the parent of round 1."""

    TYPE: ClassVar[str] = "Genesis(bytes32 jobId,bytes32 specHash,bytes32 genesisModelHash)"

    job_id: bytes
    spec_hash: bytes
    genesis_model_hash: bytes

    def words(self) -> tuple[bytes, ...]:
        """Return the three fields as words."""
        return (
            bytes32_word(self.job_id, "jobId"),
            bytes32_word(self.spec_hash, "specHash"),
            bytes32_word(self.genesis_model_hash, "genesisModelHash"),
        )


@dataclass(frozen=True, slots=True)
class RewardRoot:
    """The committee's statement of all cumulative earnings of a job at an epoch. Verified by RewardDistributor."""

    TYPE: ClassVar[str] = "RewardRoot(bytes32 jobId,uint64 epoch,bytes32 root,uint128 total,bytes32 dataHash)"

    job_id: bytes
    epoch: int
    root: bytes
    total: int
    data_hash: bytes

    def words(self) -> tuple[bytes, ...]:
        """Return the five fields as words."""
        return (
            bytes32_word(self.job_id, "jobId"),
            uint_word(self.epoch, 64, "epoch"),
            bytes32_word(self.root, "root"),
            uint_word(self.total, 128, "total"),
            bytes32_word(self.data_hash, "dataHash"),
        )


def job_id(fleet: str, job: str) -> bytes:
    """Return the 32-byte name of a job on the chain: `keccak256("{fleet}/{job}")`."""
    return keccak256(f"{fleet}/{job}".encode())
