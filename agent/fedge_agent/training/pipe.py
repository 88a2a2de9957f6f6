"""Messages between the daemon and its worker: frozen values, as CBOR, each behind its length.

A frame is a 4-byte big-endian length and that many bytes of CBOR, at most `MAX_BODY_BYTES`. No array and no pickle
crosses: vectors stay in files or in the worker's memory. This module runs in the daemon, so it imports no numpy.
"""

import struct
from typing import Annotated, Literal

import cbor2
import msgspec

from fedge_agent.training.failure import Reason

MAX_BODY_BYTES = 1 << 20
HEADER_BYTES = 4

PathText = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Seed = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class PipeError(Exception):
    """A frame that is too long, cut off or not one of the messages. The peer is broken: end it."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of everything that crosses the pipe."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the samples are: `kind` selects the reader, `name` is the owner's, `path` a file or a directory."""

    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
    name: Annotated[str, msgspec.Meta(max_length=64)]
    path: PathText


class Train(Message, tag="train", frozen=True):
    """Load graph and weights, train for `epochs`, keep the clipped difference in memory. Once in a worker's life.

    `weights_path`: little-endian float32. `clip_norm` bounds the L2 norm of the update. Of the source at most
    `max_samples` rows are used, chosen by `shuffle_seed`, which also orders the epochs.
    """

    graph_path: PathText
    weights_path: PathText
    source: Source
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    learning_rate: Positive
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    proximal_mu: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    shuffle_seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    clip_norm: Positive
    max_samples: Annotated[int, msgspec.Meta(ge=1, le=10**9)]


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pairwise mask: added when `sign` is 1, subtracted when it is -1."""

    sign: Literal[1, -1]
    seed: Seed

    def __repr__(self) -> str:
        return f"Pair(sign={self.sign})"


class Mask(Message, tag="mask", frozen=True):
    """Rotate, quantise and mask the update held in memory and write it to `out_path` as little-endian uint16.

    `weight` multiplies the update, at most `weight_max`; `levels` and `coordinate_range` are the quantiser's;
    `suite` selects the mask generator. The seeds are one-time secrets: no `repr` shows them.
    """

    pairs: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=4096)]
    self_seed: Seed
    suite: Annotated[int, msgspec.Meta(ge=0, le=255)]
    levels: Annotated[int, msgspec.Meta(ge=1, le=2**15 - 1)]
    coordinate_range: Positive
    rotation_seed: Seed
    weight: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    weight_max: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    out_path: PathText

    def __repr__(self) -> str:
        return f"Mask(pairs={len(self.pairs)}, suite={self.suite}, levels={self.levels}, out_path={self.out_path!r})"


class Quit(Message, tag="quit", frozen=True):
    """Forget everything and exit."""


class Progress(Message, tag="progress", frozen=True):
    """`epoch` of `epochs` is done; `loss` is its mean training loss."""

    epoch: Count
    epochs: Count
    loss: float


class Trained(Message, tag="trained", frozen=True):
    """An update of `dim` coordinates from `samples` rows is held in memory.

    `loss_first` and `loss_last`: mean training loss of the first and the last epoch. `update_norm`: L2 before
    clipping. `cpu_seconds`: of the process up to now; `step_cpu_seconds`: of the training steps alone.
    `confinement`: what protects the host from this process, per measure "on" or the reason why not.
    """

    samples: Count
    loss_first: float
    loss_last: float
    update_norm: float
    clipped: bool
    dim: Count
    cpu_seconds: float
    step_cpu_seconds: float
    confinement: dict[str, str]


class Masked(Message, tag="masked", frozen=True):
    """The masked vector is written: its hash, its size in bytes, and the CPU time that masking took."""

    sha256: Seed
    size: Count
    cpu_seconds: float


class Failed(Message, tag="failed", frozen=True):
    """The last request was refused."""

    reason: Reason
    detail: Text


Request = Train | Mask | Quit
Reply = Progress | Trained | Masked | Failed
_NOT_A_MESSAGE = (cbor2.CBORDecodeError, msgspec.ValidationError, ValueError, TypeError, RecursionError)


def frame(message: Message) -> bytes:
    """Header and body.

    Raises:
        PipeError: the body is too long.
    """
    body = cbor2.dumps(msgspec.to_builtins(message, builtin_types=(bytes,)), canonical=True)
    return struct.pack(">I", check_length(len(body))) + body


def body_length(header: bytes) -> int:
    """Length of the body that follows this header.

    Raises:
        PipeError: the header is cut off or announces too much.
    """
    if len(header) != HEADER_BYTES:
        raise PipeError(f"the peer closed the pipe inside a header ({len(header)} of {HEADER_BYTES} bytes)")
    return check_length(int(struct.unpack(">I", header)[0]))


def check_length(length: int) -> int:
    """`length` unless it is beyond the bound.

    Raises:
        PipeError: more than `MAX_BODY_BYTES`.
    """
    if length > MAX_BODY_BYTES:
        raise PipeError(f"a body of {length} bytes, at most {MAX_BODY_BYTES} are allowed")
    return length


def decode_request(body: bytes) -> Request:
    """The request in `body`.

    Raises:
        PipeError: it is none.
    """
    try:
        request: Request = msgspec.convert(cbor2.loads(body), Request)
    except _NOT_A_MESSAGE as error:
        raise PipeError(f"not a request: {error}") from error
    return request


def decode_reply(body: bytes) -> Reply:
    """The reply in `body`.

    Raises:
        PipeError: it is none.
    """
    try:
        reply: Reply = msgspec.convert(cbor2.loads(body), Reply)
    except _NOT_A_MESSAGE as error:
        raise PipeError(f"not a reply: {error}") from error
    return reply
