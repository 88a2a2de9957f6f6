"""The device's side of a round: one sans-I/O state machine and what it decides from."""
