"""Rewards and model provenance: on an EVM chain, or in a local hash-chained ledger of the same signed documents."""
