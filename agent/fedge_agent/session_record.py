"""What the device remembers of its connections, so that a copy or a restored backup of its disk cannot pass for it.

A number and a random name for each connection, in the device's database, synced before they are told; which of them the
coordinator has confirmed; and, once found, that this identity is on more than one disk.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from fedge_protocol.errors import ProtocolError

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS sessions (
        counter INTEGER PRIMARY KEY, session BLOB NOT NULL, proved INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS standing (
        one INTEGER PRIMARY KEY CHECK (one = 1), device TEXT NOT NULL, counter INTEGER NOT NULL,
        duplicate TEXT NOT NULL, since_ms INTEGER NOT NULL, told INTEGER NOT NULL
    ) STRICT;
    INSERT OR IGNORE INTO standing VALUES (1, '', 0, '', 0, 0)
    """
"""`IF NOT EXISTS`, because an older version of the agent may have had the database in between."""


class Duplicate(StrEnum):
    """Why this device has stopped: more than one disk holds its keys, or one that forgot what it said."""

    BEHIND = "behind"
    OTHER_HOST = "other-host"
    SEEN_TWICE = "seen-twice"

    @property
    def text(self) -> str:
        """What happened, for people."""
        return _TEXTS[self][0]

    @property
    def cure(self) -> str:
        """What to do about it."""
        return _TEXTS[self][1]


_NEW_KEYS: Final = "then fedge-agent enroll with a new token"
_COPY_LEAVES: Final = f"fedge-agent leave --offline --discard-rewards, {_NEW_KEYS}"
_TEXTS: Final = {
    Duplicate.BEHIND: (
        "this disk is a copy, or a restored backup",
        f"on a copy fedge-agent leave --offline --discard-rewards, on the only disk fedge-agent leave; {_NEW_KEYS}",
    ),
    Duplicate.OTHER_HOST: (
        "these keys were used on another machine",
        f"if it was moved, the operator gives fedgectl devices accept DEVICE; on a copy {_COPY_LEAVES}",
    ),
    Duplicate.SEEN_TWICE: (
        "another disk has spoken with these keys",
        f"on that copy {_COPY_LEAVES}; after that the operator gives fedgectl devices accept DEVICE",
    ),
}
"""Each fits into the one line of the unit's status."""


class SigningStoppedError(ProtocolError):
    """Nothing is signed any more under an identity that is on more than one disk. `fedge-agent status` has the cure."""


@dataclass(frozen=True)
class Mark:
    """Since when, and why, this device has stopped."""

    duplicate: Duplicate
    since_ms: int

    @property
    def line(self) -> str:
        """The whole of it in one line."""
        return f"duplicate identity: {self.duplicate.text}; cure: {self.duplicate.cure}"


class SessionRecord:
    """The sessions of one device, in its open database. What a method changes is synced when it returns."""

    def __init__(self, database: sqlite3.Connection, clock_ms: Callable[[], int]) -> None:
        self._db = database
        self._clock_ms = clock_ms
        self._mark = _mark(database)

    @property
    def mark(self) -> Mark | None:
        """Whether, since when and why this identity is a duplicate."""
        return self._mark

    def belongs_to(self, device: str) -> None:
        """Say whose sessions these are. Under other keys the device is another one, and no duplicate of anybody yet."""
        if self._db.execute("SELECT device FROM standing").fetchone()[0] == device:
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE standing SET device=?, counter=0, duplicate='', since_ms=0, told=0", (device,))
        self._mark = None

    def begin(self, session: bytes) -> int:
        """Number a new connection. A number is given out once, whether or not anybody hears of it.

        Earlier ones that were never proved to the coordinator cannot be known to it, and are forgotten.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            last = int(self._db.execute("SELECT MAX(counter) FROM sessions").fetchone()[0] or 0)
            self._db.execute("DELETE FROM sessions WHERE proved=0")
            self._db.execute("INSERT INTO sessions VALUES (?, ?, 0)", (last + 1, session))
        return last + 1

    def prove(self, counter: int) -> None:
        """This session is about to be proved to the coordinator, which may then know it."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE sessions SET proved=1 WHERE counter=?", (counter,))

    def remembers(self, counter: int, session: bytes) -> bool:
        """Whether the newest session that the coordinator knows is one of this disk's.

        One that is older than what the coordinator has confirmed here says nothing about this disk: the coordinator
        itself was restored from a backup. 0 means that it knows none.
        """
        confirmed = self._db.execute("SELECT counter FROM standing").fetchone()[0]
        if counter < max(confirmed, 1):
            return True
        found = self._db.execute("SELECT session FROM sessions WHERE counter=?", (counter,)).fetchone()
        return found is not None and bytes(found[0]) == session

    def confirmed(self, counter: int) -> None:
        """The coordinator knows this session and takes the device as the one it is."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE standing SET counter=?, duplicate='', since_ms=0, told=0", (counter,))
            self._db.execute("UPDATE sessions SET proved=1 WHERE counter=?", (counter,))
            self._db.execute("DELETE FROM sessions WHERE counter < ?", (counter,))
        self._mark = None

    @property
    def told(self) -> bool:
        """Whether the coordinator knows, too, that this identity is a duplicate."""
        return bool(self._db.execute("SELECT told FROM standing").fetchone()[0])

    def coordinator_knows(self) -> None:
        """The coordinator has said so itself."""
        self._db.execute("UPDATE standing SET told=1 WHERE told=0")

    def stop(self, duplicate: Duplicate) -> Mark:
        """Remember that this identity is a duplicate. The first reason stands; that this disk is behind is final."""
        known = self._mark
        if known is not None and (known.duplicate is Duplicate.BEHIND or duplicate is not Duplicate.BEHIND):
            return known
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE standing SET duplicate=?, since_ms=?", (duplicate, self._clock_ms()))
        self._mark = found = Mark(duplicate, self._clock_ms())
        return found


def mark_in(path: Path) -> Mark | None:
    """The same from outside the daemon; None also when there is no such database, or one of an older version."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            return _mark(database)
    except sqlite3.DatabaseError:
        return None


def _mark(database: sqlite3.Connection) -> Mark | None:
    row = database.execute("SELECT duplicate, since_ms FROM standing").fetchone()
    return Mark(Duplicate(row[0]), row[1]) if row is not None and row[0] else None
