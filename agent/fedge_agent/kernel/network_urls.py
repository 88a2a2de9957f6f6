"""Where the broker and the proxy are, as the owner or the enrolment writes it: `[network]` of agent.toml.

Read by the daemon, which connects there, and by the loader, which allows just that. Standard library only.
"""

import re

from fedge_agent.kernel.allowlist import Rule, read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.frozen import dataclass

_HOST_PORT = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::(?P<port>\d{1,5}))?"
_BROKER = re.compile(rf"(?P<scheme>mqtts|wss)://{_HOST_PORT}(?P<path>/[A-Za-z0-9._~/-]{{0,127}})?", re.ASCII)
_PROXY = re.compile(rf"http://{_HOST_PORT}/?", re.ASCII)
_BROKER_PORTS = {"mqtts": 8883, "wss": 443}
_PROXY_PORT = 3128
_WEBSOCKET_PATH = "/mqtt"


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """A broker's address. `websocket_path` None: MQTT by itself, over TLS."""

    host: str
    port: int
    websocket_path: str | None
    rule: Rule

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        if self.websocket_path is None:
            return f"mqtts://{shown}:{self.port}"
        return f"wss://{shown}:{self.port}{self.websocket_path}"


@dataclass(frozen=True, slots=True)
class ProxyPlace:
    """An HTTP proxy's address."""

    host: str
    port: int
    rule: Rule


def read_broker(text: str) -> BrokerPlace:
    """`mqtts://HOST[:PORT]` or `wss://HOST[:PORT][/PATH]`.

    Raises:
        PolicyError: it is neither.
    """
    match = _BROKER.fullmatch(text)
    path = match["path"] if match else None
    if match is None or (match["scheme"] == "mqtts" and path not in (None, "/")):
        raise PolicyError(f"{text!r} is no broker; write mqtts://mq.example.org:8883 or wss://mq.example.org/mqtt")
    host, port = match["host"].strip("[]").lower(), int(match["port"] or _BROKER_PORTS[match["scheme"]])
    websocket_path = None if match["scheme"] == "mqtts" else path or _WEBSOCKET_PATH
    return BrokerPlace(host, port, websocket_path, rule_for(host, port))


def read_proxy(text: str) -> ProxyPlace:
    """`http://HOST[:PORT]`; credentials have a file of their own, since this may be read by anybody.

    Raises:
        PolicyError: it is something else.
    """
    match = _PROXY.fullmatch(text)
    if match is None and "@" in text:
        raise PolicyError("a proxy with credentials; write http://HOST:PORT and put them into proxy_credentials")
    if match is None:
        raise PolicyError(f"{text!r} is no proxy; write http://proxy.example.org:3128")
    host, port = match["host"].strip("[]").lower(), int(match["port"] or _PROXY_PORT)
    return ProxyPlace(host, port, rule_for(host, port))


def rule_for(host: str, port: int) -> Rule:
    """What must be allowed for a TCP connection there.

    Raises:
        PolicyError: no host, or no port.
    """
    return read_rule(f"[{host}]:{port}/tcp" if ":" in host else f"{host}:{port}/tcp")
