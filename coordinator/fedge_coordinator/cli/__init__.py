"""`fedgectl`: the fleet operator's command."""

from fedge_coordinator.cli.root import main

__all__ = ["main"]
