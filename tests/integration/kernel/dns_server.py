"""A name server for tests: answers UDP and TCP queries on 127.0.0.1:53 from a JSON zone, honestly or not.

Usage: dns_server.py ZONE. It prints `ready`, and answers until it is killed. The zone: name -> object with `a`, `aaaa`
(lists of addresses), `ttl`, `cname` (a name that carries the records), `servfail`, `silent`, `raw` (hex of an answer).
"""

import ipaddress
import json
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

A, CNAME, AAAA = 1, 5, 28
NXDOMAIN, SERVFAIL = 3, 2
TRUNCATED = 0x0200


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def question(query: bytes) -> tuple[str, int, int]:
    """Name, type, and where the question ends."""
    labels, position = [], 12
    while query[position]:
        labels.append(query[position + 1 : position + 1 + query[position]].decode())
        position += 1 + query[position]
    (kind,) = struct.unpack("!H", query[position + 1 : position + 3])
    return ".".join(labels).lower(), kind, position + 5


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answer(zone: dict[str, Any], query: bytes, most: int) -> bytes | None:
    name, kind, end = question(query)
    entry = zone.get(name)
    flags, records = 0x8180, []
    if entry is None:
        flags |= NXDOMAIN
    elif entry.get("silent"):
        return None
    elif entry.get("servfail"):
        flags |= SERVFAIL
    elif "raw" in entry:
        return query[:2] + bytes.fromhex(entry["raw"])
    else:
        owner = b"\xc0\x0c"
        if "cname" in entry:
            owner = encoded(entry["cname"])
            records.append(record(b"\xc0\x0c", CNAME, entry.get("cname_ttl", 300), owner))
        listed = entry.get({A: "a", AAAA: "aaaa"}.get(kind, ""), [])
        records += [record(owner, kind, entry.get("ttl", 60), ipaddress.ip_address(text).packed) for text in listed]
    body = b"".join(records)
    if 12 + end + len(body) > most:
        return query[:2] + struct.pack("!HHHHH", flags | TRUNCATED, 1, 0, 0, 0) + query[12:end]
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + query[12:end] + body


def serve_tcp(listener: socket.socket, zone: dict[str, Any]) -> None:
    while True:
        made, _ = listener.accept()
        with made:
            (length,) = struct.unpack("!H", made.recv(2))
            found = answer(zone, made.recv(length), 65_535)
            if found is not None:
                made.sendall(struct.pack("!H", len(found)) + found)


def main() -> None:
    zone = json.loads(Path(sys.argv[1]).read_text())
    listener = socket.create_server(("127.0.0.1", 53))
    threading.Thread(target=serve_tcp, args=(listener, zone), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        print("ready", flush=True)  # noqa: T201 - the output
        while True:
            query, peer = server.recvfrom(4096)
            found = answer(zone, query, 512)
            if found is not None:
                server.sendto(found, peer)


main()
