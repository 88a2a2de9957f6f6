"""What the unit's own network policy is: the fleet's CA and broker, name servers where names are used, nothing else.

Run by root in `fedge-bpf attach --agent FILE`, before the daemon and whenever the enrolment or an address changes. The
enrolment belongs to the daemon's user: it is read bounded, and only host and port are taken from it.
"""

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from fedge_agent.identity.errors import IdentityError
from fedge_agent.identity.files import read_private
from fedge_agent.identity.record import RECORD, Record
from fedge_agent.kernel.allowlist import Allowed, Resolve, parse_rule, resolve_by_system
from fedge_agent.kernel.errors import PolicyError

_PORTS: Final = {"https": 443, "mqtts": 8883}
_DNS: Final = 53
_MAX_SERVERS: Final = 8
_MAX_RESOLV_CONF_BYTES: Final = 64 * 1024


def unit_policy(
    state_dir: Path, *, resolv_conf: Path = Path("/etc/resolv.conf"), resolve: Resolve = resolve_by_system
) -> tuple[tuple[Allowed, ...], tuple[str, ...]]:
    """The entries of the allow-list, and what could not be allowed and why. Not enrolled: nothing is allowed.

    A name that does not resolve now is left out: the daemon is refused until the next run.
    """
    try:
        urls = _urls(state_dir)
    except IdentityError as error:
        return (), (str(error),)
    rules = [_rule(url) for url in urls]
    if any(not _is_address(urlsplit(url).hostname or "") for url in urls):
        rules += [f"{_host(s)}:{_DNS}/{protocol}" for s in _name_servers(resolv_conf) for protocol in ("udp", "tcp")]
    entries: dict[Allowed, None] = {}
    problems: list[str] = []
    for rule in rules:
        try:
            entries.update(dict.fromkeys(parse_rule(rule, resolve)))
        except PolicyError as error:
            problems.append(str(error))
    return tuple(entries), tuple(problems)


def _urls(state_dir: Path) -> Iterable[str]:
    path = state_dir / RECORD
    if not path.exists():
        return ()
    try:
        record = msgspec.json.decode(read_private(path), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IdentityError(f"{path} is damaged; enrol again") from None
    return record.url, record.answer.broker_url


def _rule(url: str) -> str:
    parts = urlsplit(url)
    return f"{_host(parts.hostname or '')}:{parts.port or _PORTS.get(parts.scheme, 0)}/tcp"


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
