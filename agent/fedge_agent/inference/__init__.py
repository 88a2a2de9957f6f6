"""Serves the device's present models to programs on it: no network, no keys, the interpreter in a process apart."""
