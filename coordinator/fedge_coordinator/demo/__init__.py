"""The whole system on one machine: real broker, real chain, real processes, real data."""
