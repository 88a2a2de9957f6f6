"""Decides when this device may train, and holds the worker to the decision."""
