"""A notice arrives."""

import os
import socket
import tempfile

import sdnotify

with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
    notices.bind(f"{folder}/notify")
    os.environ["NOTIFY_SOCKET"] = f"{folder}/notify"
    sdnotify.SystemdNotifier().notify("READY=1")
    assert notices.recv(99) == b"READY=1"
