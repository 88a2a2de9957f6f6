"""What the coordinator must not lose: rounds in flight, jobs, prekeys, devices, blobs. SQLite, or PostgreSQL by URL."""

from fedge_coordinator.store.store import Store, open_store

__all__ = ["Store", "open_store"]
