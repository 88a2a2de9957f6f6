"""The server's side of the process that holds the interpreter: start it, ask it, end it. Imports no numpy."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedge_agent.inference.child import ANSWER, COUNT, ROWS
from fedge_agent.inference.refusals import Reason, RefusedRequestError
from fedge_agent.model_slot import Slot

START_TIMEOUT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 15.0
_MAX_LINE_BYTES: Final = 65_536
_MAX_ANSWER_BYTES: Final = 256 << 20
_INHERITED: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")
_Dim = Annotated[int, Meta(ge=1, le=1 << 24)]


class Loaded(msgspec.Struct, frozen=True):
    """What the process says of its model."""

    input_dim: _Dim
    output_dim: _Dim
    dim: _Dim
    confinement: dict[str, str]


class _NotLoaded(msgspec.Struct, frozen=True):
    reason: str
    detail: str


class ModelProcess:
    """A running process with the model of `slot`; `about` is what it said of itself. Made by `start`."""

    def __init__(self, slot: Slot, process: asyncio.subprocess.Process, about: Loaded) -> None:
        self.slot = slot
        self.about = about
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, slot: Slot, folder: Path, *, python: str = sys.executable) -> "ModelProcess":
        """Load the model in a new process.

        Raises:
            RefusedRequestError: `bad-model` or `model-crashed`; no process is left.
        """
        files = ["--graph", str(folder / slot.graph), "--weights", str(folder / slot.weights)]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            python, "-P", "-m", "fedge_agent.inference.child", *files, "--parent", str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
            cwd="/",
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                about = _about(slot, await _output(process).readline())
        except (TimeoutError, ValueError) as error:
            await _end(process)
            raise RefusedRequestError(
                Reason.BAD_MODEL, f"the model of {slot.job} does not load: {error or 'no answer'}", "see the journal"
            ) from None
        except BaseException:
            await _end(process)
            raise
        return cls(slot, process, about)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.returncode is None

    async def infer(self, rows: int, body: bytes) -> bytes:
        """Outputs of `rows` rows: float32 little-endian in, `(rows, input_dim)`, and out, `(rows, output_dim)`.

        Raises:
            RefusedRequestError: `bad-input`, `model-crashed` or `timeout`; after the last two the process is gone.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    kind, content = await self._converse(rows, body)
            except TimeoutError:
                await self.stop()
                raise RefusedRequestError(
                    Reason.TIMEOUT, f"no answer within {ANSWER_TIMEOUT_S:.0f} s", "send fewer rows"
                ) from None
            except (OSError, asyncio.IncompleteReadError):
                await self.stop()
                detail = f"the process of {self.slot.job} ended with {self._process.returncode}"
                raise RefusedRequestError(Reason.MODEL_CRASHED, detail, "ask again; see the journal") from None
            except BaseException:
                await self.stop()  # the asker is gone: what comes now would be taken for another's answer
                raise
        if kind != ROWS:
            raise RefusedRequestError(Reason.BAD_INPUT, content.decode(errors="replace")[:200], "send finite numbers")
        return content

    async def _converse(self, rows: int, body: bytes) -> tuple[int, bytes]:
        stdin = self._process.stdin
        if stdin is None:
            raise BrokenPipeError
        stdin.write(COUNT.pack(rows) + body)
        await stdin.drain()
        output = _output(self._process)
        kind, length = ANSWER.unpack(await output.readexactly(ANSWER.size))
        if length > _MAX_ANSWER_BYTES or (kind == ROWS and length != 4 * rows * self.about.output_dim):
            raise BrokenPipeError
        return kind, await output.readexactly(length)

    async def retire(self) -> None:
        """End it when the present question is answered."""
        async with self._turn:
            await self.stop()

    async def stop(self) -> None:
        """End it now."""
        await _end(self._process)


def _output(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise ValueError("the process has no output")
    return process.stdout


def _about(slot: Slot, line: bytes) -> Loaded:
    if not line:
        raise RefusedRequestError(
            Reason.MODEL_CRASHED,
            f"the model of {slot.job} crashed while it was loaded",
            "wait for the next round's model",
        )
    try:
        found = msgspec.json.decode(line, type=Loaded)
    except msgspec.DecodeError:
        try:
            refused = msgspec.json.decode(line, type=_NotLoaded)
        except msgspec.DecodeError:
            raise ValueError("it speaks nonsense") from None
        raise RefusedRequestError(
            Reason.BAD_MODEL, f"{refused.reason}: {refused.detail}", "wait for the next round's model"
        ) from None
    if found.dim != slot.dim:
        raise ValueError(f"it has {found.dim} weights, {slot.dim} were announced")
    return found


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
