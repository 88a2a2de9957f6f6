"""The contracts' ABI from the shipped artefacts: encode calls, decode answers, events and custom errors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError as AbiDecodingError

from fedge_coordinator.settlement.errors import RevertError, SettlementError
from fedge_protocol.keccak import keccak256

COMMITTEE = "AggregatorCommittee"
DEVICES = "DeviceRegistry"
MODELS = "ModelRegistry"
REWARDS = "RewardDistributor"
TOKEN = "FedgeDemoToken"  # noqa: S105 - an ERC-20, no secret
_SELECTOR_BYTES = 4
_PANIC, _ERROR = bytes.fromhex("4e487b71"), bytes.fromhex("08c379a0")


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log: its name, its arguments by name, and where it was emitted."""

    name: str
    arguments: Mapping[str, Any]
    block_number: int
    tx_hash: bytes


class Contract:
    """One artefact: ABI, creation code, and the deployed code with its immutables' places (offset, length)."""

    def __init__(
        self,
        name: str,
        abi: Sequence[Mapping[str, Any]],
        bytecode: bytes,
        deployed: bytes = b"",
        immutables: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.name = name
        self.bytecode = bytecode
        self._deployed = deployed
        self._immutables = tuple(immutables)
        self._constructor: Sequence[Mapping[str, Any]] = ()
        self._functions: dict[str, Mapping[str, Any]] = {}
        self._events: dict[bytes, Mapping[str, Any]] = {}
        self._errors: dict[bytes, Mapping[str, Any]] = {}
        for entry in abi:
            match entry["type"]:
                case "constructor":
                    self._constructor = entry["inputs"]
                case "function":
                    self._functions[entry["name"]] = entry
                case "event":
                    self._events[keccak256(_signature(entry))] = entry
                case "error":
                    self._errors[keccak256(_signature(entry))[:_SELECTOR_BYTES]] = entry

    def deployment(self, *arguments: object) -> bytes:
        """Return the creation code followed by the encoded constructor arguments."""
        return self.bytecode + encode(_types(self._constructor), arguments)

    def is_deployed_as(self, code: bytes) -> bool:
        """Say whether `code` is this contract's, whatever its immutables hold."""
        return len(code) == len(self._deployed) and self._masked(code) == self._masked(self._deployed)

    def _masked(self, code: bytes) -> bytes:
        masked = bytearray(code)
        for offset, length in self._immutables:
            masked[offset : offset + length] = bytes(length)
        return bytes(masked)

    def encode_call(self, function: str, *arguments: object) -> bytes:
        """Return the calldata of a call; structs are tuples in the order of their fields."""
        entry = self._functions[function]
        return keccak256(_signature(entry))[:_SELECTOR_BYTES] + encode(_types(entry["inputs"]), arguments)

    def decode_call(self, function: str, data: bytes) -> tuple[Any, ...]:
        """Return the arguments of calldata that `encode_call` made."""
        return _raw(self._functions[function]["inputs"], data[_SELECTOR_BYTES:])

    def decode_result(self, function: str, data: bytes) -> tuple[Any, ...]:
        """Return a call's answer; addresses as 20 bytes.

        Raises:
            SettlementError: when the answer is not of the function's type (as of an address without code).
        """
        try:
            return _raw(self._functions[function]["outputs"], data)
        except AbiDecodingError:
            raise SettlementError(f"{self.name}.{function} answered {len(data)} bytes of another type") from None

    def topic(self, event: str) -> bytes:
        """Return the first topic of an event's logs."""
        return next(topic for topic, entry in self._events.items() if entry["name"] == event)

    def decode_log(self, topics: Sequence[bytes], data: bytes, block_number: int, tx_hash: bytes) -> Event | None:
        """Return a log of this contract decoded, or None for an unknown event.

        Raises:
            SettlementError: when the log does not fit its event's type.
        """
        entry = self._events.get(topics[0]) if topics else None
        if entry is None:
            return None
        indexed = [item for item in entry["inputs"] if item["indexed"]]
        plain = [item for item in entry["inputs"] if not item["indexed"]]
        try:
            values = {item["name"]: _raw([item], topic)[0] for item, topic in zip(indexed, topics[1:], strict=True)}
            values |= zip((item["name"] for item in plain), _raw(plain, data), strict=True)
        except (AbiDecodingError, ValueError):
            raise SettlementError(f"a log of {self.name}.{entry['name']} is not of its type") from None
        return Event(entry["name"], values, block_number, tx_hash)

    def errors(self) -> Mapping[bytes, Mapping[str, Any]]:
        """Return the custom errors by their selectors."""
        return self._errors


@cache
def load(name: str) -> Contract:
    """Return a shipped contract.

    Raises:
        SettlementError: when the package was built without its artefacts.
    """
    path = resources.files("fedge_coordinator.settlement") / "artefacts" / f"{name}.json"
    try:
        artefact = json.loads(path.read_text())
    except FileNotFoundError:
        raise SettlementError(f"no artefact {name}.json; build the contracts (see contracts/README.md)") from None
    return Contract(
        name,
        artefact["abi"],
        _code(artefact["bytecode"]),
        _code(artefact["deployedBytecode"]),
        [(offset, length) for offset, length in artefact["immutables"]],
    )


def decode_revert(data: bytes) -> RevertError:
    """Return what a reverting contract said: a custom error of any of ours, `Error(string)` or `Panic(uint256)`."""
    selector, body = data[:_SELECTOR_BYTES], data[_SELECTOR_BYTES:]
    known: dict[bytes, tuple[str, Sequence[Mapping[str, Any]]]] = {
        _ERROR: ("Error", [{"type": "string"}]),
        _PANIC: ("Panic", [{"type": "uint256"}]),
    }
    for name in (COMMITTEE, DEVICES, MODELS, REWARDS, TOKEN):
        known |= {key: (entry["name"], entry["inputs"]) for key, entry in load(name).errors().items()}
    if selector not in known:
        return RevertError("UnknownError", (data[:68],))
    name, inputs = known[selector]
    try:
        return RevertError(name, _raw(inputs, body))
    except AbiDecodingError:
        return RevertError(name, (body[:64],))


def _code(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _raw(items: Sequence[Mapping[str, Any]], data: bytes) -> tuple[Any, ...]:
    values = decode(_types(items), data)
    return tuple(_addresses(item, value) for item, value in zip(items, values, strict=True))


def _addresses(item: Mapping[str, Any], value: Any) -> Any:
    """Turn eth-abi's hexadecimal addresses into 20 bytes, at any depth."""
    kind = str(item["type"])
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return tuple(_addresses(inner, entry) for entry in value)
    if kind == "tuple":
        return tuple(_addresses(part, entry) for part, entry in zip(item["components"], value, strict=True))
    return bytes.fromhex(value[2:]) if kind == "address" else value


def _types(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return [_type(item) for item in items]


def _type(item: Mapping[str, Any]) -> str:
    kind = str(item["type"])
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(_types(item["components"])) + ")" + kind.removeprefix("tuple")


def _signature(entry: Mapping[str, Any]) -> bytes:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})".encode()
