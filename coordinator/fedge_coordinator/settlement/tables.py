"""The settlement's tables. `metadata` is for the coordinator's migrations."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only INTEGER PRIMARY KEY upwards
_HASH = LargeBinary(32)
_ADDRESS = LargeBinary(20)

jobs = Table(
    "settlement_job",
    metadata,
    Column("job_id", _HASH, primary_key=True),
    Column("fleet", String(32), nullable=False),
    Column("job", String(48), nullable=False),
    Column("spec_hash", _HASH, nullable=False),
    Column("genesis_model_hash", _HASH, nullable=False),
)

devices = Table(
    "settlement_device",
    metadata,
    Column("device", _ADDRESS, primary_key=True),
    Column("device_id", _HASH, nullable=False),
    Column("payout", _ADDRESS, nullable=False),
    Column("nonce", _HASH, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("signature", LargeBinary(65), nullable=False),
)

checkpoints = Table(
    "settlement_checkpoint",
    metadata,
    Column("job_id", _HASH, ForeignKey("settlement_job.job_id"), primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("head", _HASH, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

epochs = Table(
    "settlement_epoch",
    metadata,
    Column("job_id", _HASH, ForeignKey("settlement_job.job_id"), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("last_round", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("signatures", LargeBinary, nullable=False),
)

outbox = Table(
    "settlement_outbox",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("job_id", _HASH, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("part", Integer, nullable=False),
    Column("after_id", _ID, ForeignKey("settlement_outbox.id")),
    Column("recipient", _ADDRESS, nullable=False),
    Column("calldata", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("planned_at_ms", BigInteger, nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("refusals", Integer, nullable=False),
    Column("absences", Integer, nullable=False),
    Column("error", Text),
    Column("nonce", BigInteger),
    Column("block_number", BigInteger),
    Column("block_hash", _HASH),
    Column("tx_hash", _HASH),
    UniqueConstraint("kind", "job_id", "number", "part"),
)

transactions = Table(
    "settlement_transaction",
    metadata,
    Column("tx_hash", _HASH, primary_key=True),
    Column("outbox_id", _ID, ForeignKey("settlement_outbox.id"), nullable=False, index=True),
    Column("raw", LargeBinary, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee_wei", String(80), nullable=False),
    Column("priority_fee_wei", String(80), nullable=False),
    Column("gas", BigInteger, nullable=False),
    Column("signed_at_ms", BigInteger, nullable=False),
)

lease = Table(
    "settlement_lease",
    metadata,
    Column("sender", _ADDRESS, primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)

ledger = Table(
    "settlement_ledger",
    metadata,
    Column("sequence", _ID, primary_key=True, autoincrement=False),
    Column("line", LargeBinary, nullable=False),
)
