"""Sessions of devices, by which a copied or restored disk is found."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table; a device that was seen before is known by its next session."""
    op.create_table(
        "device_sessions",
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("ready", sa.LargeBinary, nullable=False),
        sa.Column("machine", sa.LargeBinary, nullable=False),
        sa.Column("hardware", sa.LargeBinary, nullable=False),
        sa.Column("duplicate", sa.String(32), nullable=False),
        sa.Column("duplicate_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_device_sessions")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("device_sessions")
