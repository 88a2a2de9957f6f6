"""FSA/1: the cryptography of one secure-aggregation bucket. Pure functions and small classes; no I/O, no messages."""
