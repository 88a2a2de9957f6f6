"""The agent's way to the broker, run inside a guarded cgroup. Prints one JSON object a line: what happened.

Usage: way_out_client.py SETTINGS.json; its fields are those of `main`. After the connection it tries `forbidden`, and
then a name server.
"""

import asyncio
import errno
import json
import socket
import sys
from pathlib import Path
from typing import Any

from fedge_agent.address_book import AddressBook
from fedge_transport.connection import Connection
from fedge_transport.events import Connected, Disconnected
from fedge_transport.route import Proxy, Route
from fedge_transport.settings import ConnectionSettings


def attempt(kind: socket.SocketKind, host: str, port: int) -> str:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.settimeout(2)
        try:
            probe.connect((host, port))
            probe.send(b"x")
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


class Tally:
    """Counts what the agent's own budget would."""

    spent = False
    used_bytes = 0

    def use(self, wire_bytes: int) -> None:
        self.used_bytes += wire_bytes

    def refilled_in_s(self) -> float:
        return 0.0


async def connect(asked: dict[str, Any], tally: Tally) -> str:
    proxy = None
    if asked["proxy"]:
        proxy = Proxy(asked["proxy"][0], asked["proxy"][1], Path(asked["credentials"]))
    book = AddressBook(Path(asked["endpoints"]), Path(asked["request"]))
    settings = ConnectionSettings(
        asked["host"],
        asked["port"],
        asked["name"],
        ca_file=Path(asked["ca"]),
        cert_file=Path(asked["cert"]),
        key_file=Path(asked["key"]),
        websocket_path=asked["path"],
    )
    async with asyncio.timeout(30), Connection(settings, route=Route(book, proxy, tally)) as connection:
        async for event in connection.events():
            if isinstance(event, Connected):
                for _ in range(asked["messages"]):
                    await connection.publish(asked["topic"], bytes(100_000))
            return event.detail if isinstance(event, Disconnected) else "connected"
    return "no event"


def main(asked: dict[str, Any]) -> None:
    tally = Tally()
    said: dict[str, Any] = {"event": asyncio.run(connect(asked, tally)), "counted_bytes": tally.used_bytes}
    said["refresh_wanted"] = Path(asked["request"]).exists()
    said["forbidden"] = [attempt(socket.SOCK_STREAM, *peer) for peer in asked["forbidden"]]
    said["name_server"] = attempt(socket.SOCK_DGRAM, "127.0.0.53", 53)
    print(json.dumps(said), flush=True)  # noqa: T201 - the answer


main(json.loads(Path(sys.argv[1]).read_text()))
