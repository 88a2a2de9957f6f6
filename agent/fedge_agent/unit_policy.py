"""What the enrolment adds to the unit's allow-list: the fleet's CA and broker, and name servers where they have names.

Read by root in `fedge-bpf attach --enrolment DIR`, before the daemon starts and whenever the enrolment changes. The
enrolment belongs to the daemon's user: it is read bounded, and only host and port are taken from it.
"""

import ipaddress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from fedge_agent.identity.errors import IdentityError, KeyFileError
from fedge_agent.identity.files import read_private
from fedge_agent.identity.record import RECORD, Record

_PORTS: Final = {"https": 443, "mqtts": 8883}
_DNS: Final = 53
_MAX_SERVERS: Final = 8
_MAX_RESOLV_CONF_BYTES: Final = 64 * 1024


def enrolment_rules(state_dir: Path, *, resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Rules `HOST:PORT/PROTO`; none before the enrolment. Never a network, whatever the enrolment says.

    Raises:
        IdentityError: the enrolment cannot be read.
    """
    urls = _urls(state_dir)
    rules = [_rule(url) for url in urls]
    if any(not _is_address(urlsplit(url).hostname or "") for url in urls):
        rules += [f"{_host(s)}:{_DNS}/{protocol}" for s in _name_servers(resolv_conf) for protocol in ("udp", "tcp")]
    return tuple(dict.fromkeys(rules))


def _urls(state_dir: Path) -> tuple[str, ...]:
    path = state_dir / RECORD
    if not path.exists():
        return ()
    try:
        record = msgspec.json.decode(read_private(path), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise KeyFileError(f"{path} is damaged; enrol again") from None
    return record.url, record.answer.broker_url


def _rule(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise IdentityError(f"{url!r} in the enrolment is no URL; enrol again") from None
    return f"{_host(host)}:{port}/tcp"


def _host(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _name_servers(path: Path) -> list[str]:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            lines = file.read(_MAX_RESOLV_CONF_BYTES).splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    found = [parts[1].split("%")[0] for parts in words if len(parts) > 1 and parts[0] == "nameserver"]
    return [server for server in found if _is_address(server)][:_MAX_SERVERS]
