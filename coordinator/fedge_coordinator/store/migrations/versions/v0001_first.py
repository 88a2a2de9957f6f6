"""The first tables: rounds, journal, jobs, progress, prekeys, devices."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "rounds",
        sa.Column("job", sa.String(48), primary_key=True),
        sa.Column("round", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("record", sa.LargeBinary),
        sa.Column("opened_at_ms", sa.BigInteger, nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger),
    )
    op.create_index("ix_rounds_status", "rounds", ["status"])
    op.create_table(
        "journal",
        sa.Column("job", sa.String(48), primary_key=True),
        sa.Column("round", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("device", sa.String(32)),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["job", "round", "attempt"], ["rounds.job", "rounds.round", "rounds.attempt"], ondelete="CASCADE"
        ),
    )
    op.create_table(
        "jobs",
        sa.Column("name", sa.String(48), primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("spec_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("next_round", sa.BigInteger, nullable=False),
        sa.Column("graph", sa.LargeBinary),
        sa.Column("weights", sa.LargeBinary),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "progress",
        sa.Column("job", sa.String(48), primary_key=True),
        sa.Column("round", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger, nullable=False),
        sa.Column("participants", sa.Integer, nullable=False),
        sa.Column("dropouts", sa.Integer, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("weights", sa.LargeBinary, nullable=False),
        sa.Column("checkpoint", sa.LargeBinary),
        sa.Column("tx_hash", sa.LargeBinary),
        sa.ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),
    )
    op.create_table(
        "prekeys",
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("prekey_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("added_at_ms", sa.BigInteger, nullable=False),
        sa.Column("job", sa.String(48)),
        sa.Column("round", sa.BigInteger),
        sa.Column("attempt", sa.Integer),
    )
    op.create_index("ix_prekeys_device_state", "prekeys", ["device", "state"])
    op.create_index("ix_prekeys_job_round_attempt", "prekeys", ["job", "round", "attempt"])
    op.create_table(
        "devices",
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("first_seen_ms", sa.BigInteger, nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger, nullable=False),
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("missing_features", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("refusal_reason", sa.String(32)),
        sa.Column("refusal_detail", sa.String(256)),
        sa.Column("refusal_at_ms", sa.BigInteger),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    """Drop them, those that refer to others first."""
    for table in ("devices", "prekeys", "progress", "jobs", "journal", "rounds"):
        op.drop_table(table)
