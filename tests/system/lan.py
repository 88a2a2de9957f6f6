"""A network for machines: a bridge in a network namespace of its own, and a namespace for each member."""

import subprocess


class Lan:
    """A bridge; `address` 10.77.0.1 is the host's side of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "10.77.0.1"
        self._members: list[str] = []
        _ip("netns", "add", name)
        self._inside(name, "link", "set", "lo", "up")
        self._inside(name, "link", "add", "bridge", "type", "bridge")
        self._inside(name, "addr", "add", f"{self.address}/24", "dev", "bridge")
        self._inside(name, "link", "set", "bridge", "up")

    def join(self) -> tuple[str, str]:
        """A new member's (namespace, address)."""
        number = 10 + len(self._members)
        member, address = f"{self.name}-{number}", f"10.77.0.{number}"
        _ip("netns", "add", member)
        self._members.append(member)
        self._inside(self.name, "link", "add", f"port{number}", "type", "veth", "peer", "host0", "netns", member)
        self._inside(self.name, "link", "set", f"port{number}", "master", "bridge", "up")
        self._inside(member, "link", "set", "lo", "up")
        self._inside(member, "addr", "add", f"{address}/24", "dev", "host0")
        self._inside(member, "link", "set", "host0", "up")
        return member, address

    def close(self) -> None:
        """Take all of it down."""
        for name in (*self._members, self.name):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    @staticmethod
    def _inside(namespace: str, *words: str) -> None:
        _ip("-n", namespace, *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
