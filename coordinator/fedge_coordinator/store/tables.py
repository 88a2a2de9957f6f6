"""The tables. `migrations/` makes them; a test holds that both say the same."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

rounds: Final = Table(
    "rounds",
    metadata,
    Column("job", String(48), primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("status", String(16), nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("record", LargeBinary),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("closed_at_ms", BigInteger),
)
Index(None, rounds.c.status)

journal: Final = Table(
    "journal",
    metadata,
    Column("job", String(48), primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("device", String(32)),
    Column("body", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["job", "round", "attempt"], ["rounds.job", "rounds.round", "rounds.attempt"], ondelete="CASCADE"
    ),
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("name", String(48), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("spec_hash", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("next_round", BigInteger, nullable=False),
    Column("graph", LargeBinary),
    Column("weights", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

progress: Final = Table(
    "progress",
    metadata,
    Column("job", String(48), primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("finished_at_ms", BigInteger, nullable=False),
    Column("participants", Integer, nullable=False),
    Column("dropouts", Integer, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("weights", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary),
    Column("tx_hash", LargeBinary),
    ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),
)

prekeys: Final = Table(
    "prekeys",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("prekey_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("added_at_ms", BigInteger, nullable=False),
    Column("job", String(48)),
    Column("round", BigInteger),
    Column("attempt", Integer),
)
Index(None, prekeys.c.device, prekeys.c.state)
Index(None, prekeys.c.job, prekeys.c.round, prekeys.c.attempt)

devices: Final = Table(
    "devices",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("first_seen_ms", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("version", String(64), nullable=False),
    Column("missing_features", BigInteger, nullable=False),
    Column("state", String(64), nullable=False),
    Column("refusal_reason", String(32)),
    Column("refusal_detail", String(256)),
    Column("refusal_at_ms", BigInteger),
    Column("revoked", Boolean, nullable=False),
)

device_sessions: Final = Table(
    "device_sessions",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("session", LargeBinary, nullable=False),
    Column("ready", LargeBinary, nullable=False),
    Column("machine", LargeBinary, nullable=False),
    Column("hardware", LargeBinary, nullable=False),
    Column("duplicate", String(32), nullable=False),
    Column("duplicate_at_ms", BigInteger, nullable=False),
)
