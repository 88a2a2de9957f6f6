"""The daemon's side of a worker: start it, ask it, and be sure that it is gone afterwards. Imports no numpy."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from fedge_agent.training.failure import Reason, TrainingError
from fedge_agent.training.pipe import (
    HEADER_BYTES,
    Failed,
    Mask,
    Masked,
    PipeError,
    Progress,
    Quit,
    Reply,
    Request,
    Train,
    Trained,
    body_length,
    decode_reply,
    frame,
)

MAX_STDERR_BYTES = 4096
QUIT_GRACE_S = 2.0
_SH, _CHRT, _NICE = "/bin/sh", "/usr/bin/chrt", "/usr/bin/nice"  # of essential packages of Debian

ReplyT = TypeVar("ReplyT", Trained, Masked)


class Worker:
    """One worker process, as an asynchronous context. Leaving the context ends the process, frozen or not.

    Args:
        directory: the only place where the worker may write; it must exist.
        python: interpreter that runs the worker.
        cgroup: directory of an existing cgroup that the worker is moved into before it is asked anything.
        on_progress: called after each epoch.
        nice: steps towards less CPU, 0 to 19.
        idle: run under SCHED_IDLE.

    One request at a time. A timeout counts wall time, so it must allow for the pauses that admission orders by freezing
    the cgroup; after a timeout or a crash the worker is dead and every further request fails.
    """

    def __init__(
        self,
        directory: Path,
        *,
        python: str = sys.executable,
        cgroup: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        nice: int = 19,
        idle: bool = True,
    ) -> None:
        self._directory = directory.absolute()  # it becomes the working directory
        self._python = python
        self._cgroup = cgroup
        self._on_progress = on_progress
        self._arguments = ["--nice", str(nice), *(["--idle"] if idle else [])]
        self._rank = _ranked(nice, idle=idle)
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = b""
        self._stderr_reader: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Process id, for admission.

        Raises:
            RuntimeError: outside of the context.
        """
        return self._running().pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._rank,
            self._python,
            "-P",  # no module is ever taken from the working directory
            "-m",
            "fedge_agent.training.worker",
            "--directory",
            str(self._directory),
            "--parent",
            str(os.getpid()),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._directory,
            env=_environment(os.environ),
        )
        self._stderr_reader = asyncio.create_task(self._collect_stderr())
        if self._cgroup is not None:
            try:
                with (self._cgroup / "cgroup.procs").open("r+") as members:  # never makes a file where no cgroup is
                    members.write(str(self._process.pid))
            except OSError:
                await self._end()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self._quit()
        await self._end()

    async def train(self, request: Train, *, timeout_s: float | None = None) -> Trained:
        """Train; the update stays in the worker.

        Raises:
            TrainingError: the worker's reason, or `crashed` or `timeout`.
        """
        return await self._ask(request, Trained, timeout_s)

    async def mask(self, request: Mask, *, timeout_s: float | None = 60.0) -> Masked:
        """Mask the update into `request.out_path`.

        Raises:
            TrainingError: the worker's reason, or `crashed` or `timeout`.
        """
        return await self._ask(request, Masked, timeout_s)

    async def _ask(self, request: Request, expected: type[ReplyT], timeout_s: float | None) -> ReplyT:
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._converse(request, expected)
            except TimeoutError as error:
                await self._end()
                raise TrainingError(Reason.TIMEOUT, f"no answer within {timeout_s} s") from error
            except (OSError, PipeError, asyncio.IncompleteReadError) as error:
                raise TrainingError(Reason.CRASHED, await self._last_words(error)) from error
            except TrainingError:
                raise
            except BaseException:
                # Whatever the worker answers now would be taken for the answer to the next question.
                await self._end()
                raise

    async def _converse(self, request: Request, expected: type[ReplyT]) -> ReplyT:
        process = self._running()
        if process.stdin is None:
            raise PipeError("the worker has no input")
        process.stdin.write(frame(request))
        await process.stdin.drain()
        while True:
            reply = await self._receive(process)
            if isinstance(reply, expected):
                return reply
            match reply:
                case Progress():
                    if self._on_progress is not None:
                        self._on_progress(reply)
                case Failed():
                    raise TrainingError(reply.reason, _printable(reply.detail))
                case _:
                    raise PipeError(f"the worker answered {type(reply).__name__}")

    async def _receive(self, process: asyncio.subprocess.Process) -> Reply:
        if process.stdout is None:
            raise PipeError("the worker has no output")
        header = await process.stdout.readexactly(HEADER_BYTES)
        return decode_reply(await process.stdout.readexactly(body_length(header)))

    async def _quit(self) -> None:
        process = self._running()
        if process.returncode is not None or process.stdin is None:
            return
        with contextlib.suppress(OSError, TimeoutError):
            process.stdin.write(frame(Quit()))
            process.stdin.close()
            async with asyncio.timeout(QUIT_GRACE_S):
                await process.wait()

    async def _end(self) -> None:
        """Kill by process id and wait until the process is gone; a frozen cgroup does not stop SIGKILL (cgroup v2)."""
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._stderr_reader is not None:
            await self._stderr_reader

    async def _last_words(self, error: Exception) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIT_GRACE_S):  # its pipe ends before it does, and its own status says more
                await self._running().wait()
        await self._end()
        said = _printable(self._stderr.decode(errors="replace")).strip()
        return f"exit status {self._running().returncode}: {said or error}"

    async def _collect_stderr(self) -> None:
        stream = self._running().stderr
        if stream is None:
            return
        while part := await stream.read(MAX_STDERR_BYTES):
            self._stderr = (self._stderr + part)[-MAX_STDERR_BYTES:]

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the worker is not started: use `async with Worker(...)`")
        return self._process


def _printable(text: str) -> str:
    """Text of a worker, which hostile input may have taken over, without anything that steers a terminal or a log."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _ranked(nice: int, *, idle: bool) -> list[str]:
    """The words that the worker is started through, for its interpreter and first imports to yield the CPU as well.

    They execute what follows them: the process stays the same. Whatever of it this place refuses or lacks is passed
    over; the worker yields by itself, and tells, as soon as it runs its own code.
    """
    if not all(os.access(path, os.X_OK) for path in (_SH, _NICE)):
        return []
    rank = f"{{ {_CHRT} --idle --pid 0 $$; }} 2>/dev/null; " if idle else ""
    return [_SH, "-c", f'{rank}exec {_NICE} -n {nice} "$0" "$@"']


def _environment(inherited: os._Environ[str]) -> dict[str, str]:
    """What the worker inherits: paths to find modules and programs, no secrets; numerical libraries get one thread."""
    kept = {name: inherited[name] for name in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if name in inherited}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
