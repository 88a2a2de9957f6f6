"""Work done in a child of this process, whose memory goes with it: what only reads must not weigh on what loads."""

import os
import sys

from fedge_agent.kernel import plain
from fedge_agent.kernel.frozen import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class ChildFailedError(RuntimeError):
    """The child ended without an answer; why stands on standard error."""


def apart(work: "Callable[..., Any]", *arguments: object) -> "Any":
    """What `work(*arguments)` returns, which must be plain (see `plain`); lists come back as tuples.

    Only for a process with one thread. What the child says is decoded, not believed.

    Raises:
        ChildFailedError: `work` raised, told on standard error; or what came back is no plain value.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reader)
        _answer(writer, work, arguments)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read(plain.MAX_BYTES + 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise ChildFailedError(f"the part of {sys.argv[0]} that reads ended with status {status}")
    try:
        return plain.decode(answer)
    except plain.NotPlainError as error:
        raise ChildFailedError(f"the part of {sys.argv[0]} that reads said what is no answer: {error}") from error


def _answer(writer: int, work: "Callable[..., Any]", arguments: tuple[object, ...]) -> None:
    status = 1
    try:
        with open(writer, "wb") as pipe:
            pipe.write(plain.encode(work(*arguments)))
        sys.stdout.flush()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may run on into the parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
