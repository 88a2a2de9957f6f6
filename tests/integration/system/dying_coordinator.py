"""Runs the real coordinator, but kills it by SIGKILL at an exact point: `dying_coordinator.py POINT run --config ...`.

Only tests start it; the coordinator itself knows nothing of faults.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fedge_coordinator.daemon_cli import main
from fedge_coordinator.federation.post import Post
from fedge_coordinator.federation.runner import JobRunner
from fedge_coordinator.settlement.ledger import LedgerSettlement
from fedge_coordinator.store.journal import RoundJournal, RoundStatus
from fedge_protocol.messages import Down


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: type, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Die instead of this call."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            die()
        return real(*args, **kwargs)

    setattr(owner, name, call)


def after(owner: type, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Die when this call has returned."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if when(*args, **kwargs):
            die()
        return found

    setattr(owner, name, call)


def _masked(_journal: RoundJournal, _key: object, entries: list[Any]) -> bool:
    return any(entry.kind == "masked" for entry in entries)


def _finished(_journal: RoundJournal, _key: object, status: RoundStatus, _record: bytes) -> bool:
    return status is RoundStatus.FINISHED


POINTS: dict[str, Callable[[], None]] = {
    "journalled-not-committed": lambda: after(RoundJournal, "append", _masked),
    "committed-not-sent": lambda: before(JobRunner, "flush", lambda runner: runner.phase == "unmask"),
    "asked-for-the-last-shares": lambda: after(Post, "send", lambda _post, _d, kind, _b: kind is Down.UNMASK_REQUEST),
    "summed-not-recorded": lambda: before(LedgerSettlement, "publish_checkpoint"),
    "recorded-not-committed": lambda: after(RoundJournal, "finish", _finished),
    "committed-not-announced": lambda: before(Post, "send", lambda _post, _d, kind, _b: kind is Down.RESULT),
}

if __name__ == "__main__":
    POINTS[sys.argv.pop(1)]()
    main()
