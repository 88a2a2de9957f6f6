"""What the device must not forget: what it signed, its prekeys, how its rounds ended. SQLite, synced before use.

The signing record is the device's protection against itself: a second, different body of one kind for one round and
attempt is never signed, whatever happened in between (compare EIP-3076 for validators).
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedge_agent import session_record
from fedge_protocol.errors import ProtocolError
from fedge_protocol.secagg.prekeys import Prekey

_SCHEMA: Final = (
    """
    CREATE TABLE signed (
        job TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, kind TEXT NOT NULL,
        body BLOB NOT NULL, message BLOB NOT NULL, sha256 BLOB NOT NULL, at_ms INTEGER NOT NULL,
        acknowledged INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (job, round, attempt, kind)
    ) STRICT;
    CREATE INDEX signed_by_sha256 ON signed (sha256);
    CREATE TABLE prekeys (
        prekey_id INTEGER PRIMARY KEY, mask_seed BLOB, channel_private BLOB, state TEXT NOT NULL
    ) STRICT;
    CREATE TABLE rounds (
        job TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, outcome TEXT NOT NULL,
        detail TEXT NOT NULL, bytes_up INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (job, round, attempt)
    ) STRICT;
    """,
    session_record.SCHEMA,
)
_CURE: Final = "fedge-agent leave --discard-rewards (a backup of it would be behind), then enroll with a new token"
_GIVEN_UP: Final = 2
"""Of a message that nobody will acknowledge any more."""
_NEW, _PUBLISHED, _RESERVED, _BURNED = "new", "published", "reserved", "burned"


class AlreadySignedError(ProtocolError):
    """Another body of this kind was signed for this round and attempt before. The device sits the round out."""


class StoreUnusableError(ProtocolError):
    """The database cannot be opened or is damaged. A backup of it would be behind: leave the fleet and enrol again."""


@dataclass(frozen=True)
class Signed:
    """One message that left, or is to leave, the device."""

    job: str
    round: int
    attempt: int
    kind: str
    message: bytes
    at_ms: int
    acknowledged: bool


@dataclass(frozen=True)
class PastRound:
    """How a round ended for this device."""

    job: str
    round: int
    attempt: int
    outcome: str
    detail: str
    bytes_up: int
    at_ms: int


class DeviceStore:
    """Opens or makes the database at `path` (0600).

    Every method that changes something has synced when it returns, but for two whose loss in a power cut costs nothing
    that matters: `acknowledged` and `round_ended`.

    Raises:
        StoreUnusableError: the file is no database of ours, or damaged.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, clock_ms: Callable[[], int]) -> None:
        path.touch(mode=0o600)
        self._clock_ms = clock_ms
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            for pragma in ("busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._migrate()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreUnusableError(f"{path}: {error}; {_CURE}") from None
        self.sessions = session_record.SessionRecord(self._db, clock_ms)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _migrate(self) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")  # another process may be making the tables at this moment
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            for script in _SCHEMA[version:]:
                for statement in script.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={len(_SCHEMA)}")

    # --- what was signed

    def sign_once(
        self, job: str, round_: int, attempt: int, kind: str, body: bytes, sign: Callable[[bytes], bytes]
    ) -> bytes:
        """The signed message for `body`, stored before it is returned; the stored one if it was signed before.

        Raises:
            AlreadySignedError: a different body was signed in its place.
            SigningStoppedError: this identity is a duplicate.
        """
        if (mark := self.sessions.mark) is not None:
            raise session_record.SigningStoppedError(mark.line)
        key = (job, round_, attempt, kind)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")  # from looking to storing nobody else may sign
            known = self._db.execute(
                "SELECT body, message FROM signed WHERE job=? AND round=? AND attempt=? AND kind=?", key
            ).fetchone()
            if known is not None:
                if known[0] != body:
                    raise AlreadySignedError(f"{kind} of {job} round {round_}.{attempt} was signed before, differently")
                return bytes(known[1])
            message = sign(body)
            self._db.execute(
                "INSERT INTO signed (job, round, attempt, kind, body, message, sha256, at_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, body, message, hashlib.sha256(message).digest(), self._clock_ms()),
            )
        return message

    def acknowledged(self, message_sha256: bytes) -> None:
        """The coordinator has the message with this SHA-256; nothing happens when it is none of ours.

        Not synced: what a power cut makes us forget is sent once more.
        """
        self._note("UPDATE signed SET acknowledged=1 WHERE sha256=? AND acknowledged=0", (message_sha256,))

    def has_signed(self, job: str, round_: int, attempt: int, kind: str) -> bool:
        """Whether this kind was signed for the round, also by an earlier process."""
        row = self._db.execute(
            "SELECT 1 FROM signed WHERE job=? AND round=? AND attempt=? AND kind=?", (job, round_, attempt, kind)
        ).fetchone()
        return row is not None

    def has_message(self, message_sha256: bytes) -> bool:
        """Whether this disk remembers having signed the message with this SHA-256."""
        row = self._db.execute("SELECT 1 FROM signed WHERE sha256=?", (message_sha256,)).fetchone()
        return row is not None

    def unacknowledged(self, since_ms: int) -> list[Signed]:
        """What was signed since then and not acknowledged: to be sent again after a restart, byte for byte."""
        return self._signed("WHERE acknowledged=0 AND at_ms>=? ORDER BY at_ms, rowid", (since_ms,))

    def outbox(self, last: int) -> list[Signed]:
        """The newest `last` messages that ever left the device."""
        return self._signed("ORDER BY at_ms DESC, rowid DESC LIMIT ?", (last,))

    def newest(self, kind: str, last: int) -> list[Signed]:
        """The newest `last` messages of a kind, oldest first."""
        return self._signed("WHERE kind=? ORDER BY at_ms DESC, rowid DESC LIMIT ?", (kind, last))[::-1]

    def _signed(self, clause: str, values: tuple[str | int, ...]) -> list[Signed]:
        columns = "job, round, attempt, kind, message, at_ms, acknowledged"
        rows = self._db.execute(f"SELECT {columns} FROM signed {clause}", values)  # noqa: S608 - two fixed clauses
        return [Signed(r[0], r[1], r[2], r[3], bytes(r[4]), r[5], r[6] == 1) for r in rows]

    def retire(self) -> None:
        """The device leaves its fleet: no prekey is left, nothing is sent again; what was signed stays known."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE signed SET acknowledged=? WHERE acknowledged=0", (_GIVEN_UP,))
            held = self._db.execute("SELECT prekey_id FROM prekeys WHERE state<>?", (_BURNED,)).fetchall()
        self.burn_prekeys(row[0] for row in held)

    # --- prekeys

    def next_prekey_id(self) -> int:
        """An id that was never used on this device."""
        row = self._db.execute("SELECT MAX(prekey_id) FROM prekeys").fetchone()
        return 1 if row[0] is None else int(row[0]) + 1

    def add_prekeys(self, fresh: Iterable[Prekey]) -> None:
        """Keep new prekeys; they may be used once the coordinator has acknowledged them."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO prekeys VALUES (?, ?, ?, ?)",
                [(prekey.prekey_id, prekey.mask_seed, prekey.channel_private, _NEW) for prekey in fresh],
            )

    def prekeys_published(self, ids: Iterable[int]) -> None:
        """The coordinator has these."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "UPDATE prekeys SET state=? WHERE prekey_id=? AND state=?",
                [(_PUBLISHED, prekey_id, _NEW) for prekey_id in ids],
            )

    def unpublished(self) -> list[Prekey]:
        """Prekeys that the coordinator has not acknowledged."""
        return self._prekeys(_NEW, -1)

    def published_count(self) -> int:
        """How many prekeys are ready for rounds."""
        return int(self._db.execute("SELECT COUNT(*) FROM prekeys WHERE state=?", (_PUBLISHED,)).fetchone()[0])

    def reserve_prekey(self) -> Prekey | None:
        """Take one published prekey for a round; None when there is none. It never comes back."""
        found = self._prekeys(_PUBLISHED, 1)
        if not found:
            return None
        self._db.execute("UPDATE prekeys SET state=? WHERE prekey_id=?", (_RESERVED, found[0].prekey_id))
        return found[0]

    def burn_prekeys(self, ids: Iterable[int]) -> None:
        """Delete the private halves for good: when this returns they are in no file any more."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "UPDATE prekeys SET state=?, mask_seed=NULL, channel_private=NULL WHERE prekey_id=?",
                [(_BURNED, prekey_id) for prekey_id in ids],
            )
        # `secure_delete` clears the pages of the database; the log would keep them until it is written over.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def burn_reserved(self) -> int:
        """After a start: whatever was reserved belonged to a round this process knows nothing of. Returns how many."""
        reserved = [prekey.prekey_id for prekey in self._prekeys(_RESERVED, -1)]
        self.burn_prekeys(reserved)
        return len(reserved)

    def _prekeys(self, state: str, limit: int) -> list[Prekey]:
        rows = self._db.execute(
            "SELECT prekey_id, mask_seed, channel_private FROM prekeys WHERE state=? ORDER BY prekey_id LIMIT ?",
            (state, limit),
        )
        return [Prekey(row[0], bytes(row[1]), bytes(row[2])) for row in rows]

    # --- rounds

    def round_ended(
        self, job: str, round_: int, attempt: int, *, outcome: str, detail: str = "", bytes_up: int = 0
    ) -> None:
        """Remember how a round ended; the last word counts. Not synced: it is for people to read."""
        self._note(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET outcome=excluded.outcome,"
            " detail=excluded.detail, bytes_up=MAX(bytes_up, excluded.bytes_up), at_ms=excluded.at_ms",
            (job, round_, attempt, outcome, detail[:256], bytes_up, self._clock_ms()),
        )

    def rounds(self, last: int) -> list[PastRound]:
        """The newest `last` rounds."""
        rows = self._db.execute("SELECT * FROM rounds ORDER BY at_ms DESC, rowid DESC LIMIT ?", (last,))
        return [PastRound(*row) for row in rows]

    def outcomes(self) -> dict[str, int]:
        """How often rounds ended in which way."""
        return dict(self._db.execute("SELECT outcome, COUNT(*) FROM rounds GROUP BY outcome").fetchall())

    def _note(self, statement: str, values: tuple[object, ...]) -> None:
        """Change something without waiting for the disk; other processes see it, a power cut may undo it."""
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            self._db.execute(statement, values)
        finally:
            self._db.execute("PRAGMA synchronous=FULL")
