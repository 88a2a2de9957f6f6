"""The tables of settlement: jobs, devices, checkpoints, epochs, outbox, transactions, lease, ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "settlement_device",
        sa.Column("device", sa.LargeBinary(length=20), nullable=False),
        sa.Column("device_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payout", sa.LargeBinary(length=20), nullable=False),
        sa.Column("nonce", sa.LargeBinary(length=32), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(length=65), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_settlement_device")),
    )
    op.create_table(
        "settlement_job",
        sa.Column("job_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("fleet", sa.String(length=32), nullable=False),
        sa.Column("job", sa.String(length=48), nullable=False),
        sa.Column("spec_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("genesis_model_hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_settlement_job")),
    )
    op.create_table(
        "settlement_lease",
        sa.Column("sender", sa.LargeBinary(length=20), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sender", name=op.f("pk_settlement_lease")),
    )
    op.create_table(
        "settlement_ledger",
        sa.Column(
            "sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_settlement_ledger")),
    )
    op.create_table(
        "settlement_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("after_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("recipient", sa.LargeBinary(length=20), nullable=False),
        sa.Column("calldata", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("planned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("absences", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("block_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("tx_hash", sa.LargeBinary(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["after_id"], ["settlement_outbox.id"], name=op.f("fk_settlement_outbox_after_id_settlement_outbox")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settlement_outbox")),
        sa.UniqueConstraint("kind", "job_id", "number", "part", name=op.f("uq_settlement_outbox_kind")),
    )
    op.create_index(op.f("ix_settlement_outbox_state"), "settlement_outbox", ["state"], unique=False)
    op.create_table(
        "settlement_checkpoint",
        sa.Column("job_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("head", sa.LargeBinary(length=32), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["settlement_job.job_id"], name=op.f("fk_settlement_checkpoint_job_id_settlement_job")
        ),
        sa.PrimaryKeyConstraint("job_id", "round", name=op.f("pk_settlement_checkpoint")),
    )
    op.create_table(
        "settlement_epoch",
        sa.Column("job_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_round", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("signatures", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["settlement_job.job_id"], name=op.f("fk_settlement_epoch_job_id_settlement_job")
        ),
        sa.PrimaryKeyConstraint("job_id", "epoch", name=op.f("pk_settlement_epoch")),
    )
    op.create_table(
        "settlement_transaction",
        sa.Column("tx_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("outbox_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.Column("max_fee_wei", sa.String(length=80), nullable=False),
        sa.Column("priority_fee_wei", sa.String(length=80), nullable=False),
        sa.Column("gas", sa.BigInteger(), nullable=False),
        sa.Column("signed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["outbox_id"], ["settlement_outbox.id"], name=op.f("fk_settlement_transaction_outbox_id_settlement_outbox")
        ),
        sa.PrimaryKeyConstraint("tx_hash", name=op.f("pk_settlement_transaction")),
    )
    op.create_index(op.f("ix_settlement_transaction_outbox_id"), "settlement_transaction", ["outbox_id"], unique=False)


def downgrade() -> None:
    """Drop them, those that refer to others first."""
    op.drop_index(op.f("ix_settlement_transaction_outbox_id"), table_name="settlement_transaction")
    op.drop_table("settlement_transaction")
    op.drop_table("settlement_epoch")
    op.drop_table("settlement_checkpoint")
    op.drop_index(op.f("ix_settlement_outbox_state"), table_name="settlement_outbox")
    op.drop_table("settlement_outbox")
    op.drop_table("settlement_ledger")
    op.drop_table("settlement_lease")
    op.drop_table("settlement_job")
    op.drop_table("settlement_device")
