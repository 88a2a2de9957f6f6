"""The coordinator's side of a round: one file per phase, a deterministic fold over a journal of accepted inputs."""
