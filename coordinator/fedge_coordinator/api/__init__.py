"""The coordinator's HTTP API: on a Unix socket for `fedgectl`, and metrics and health on loopback."""
