"""What the enrolment adds to the unit's allow-list: the fleet's CA and broker. No name server: the daemon asks none.

Read by root in `fedge-bpf attach --enrolment DIR`, before the daemon starts and whenever the enrolment changes. The
enrolment belongs to the daemon's user: it is read bounded, only host and port are taken from it, and only those that
root accepted (`accepted_enrolment`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fedge_agent.accepted_enrolment import Urls, settle
from fedge_agent.identity.errors import IdentityError, KeyFileError
from fedge_agent.identity.files import read_private
from fedge_agent.kernel.allowlist import read_rule
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.network_urls import read_broker

RECORD = "identity.json"
"""`identity.record.RECORD`; that module costs 18 MB and 60 ms, which the loader does without."""
_HTTPS = 443
_MAX_URL_CHARS = 300


def enrolment_rules(
    state_dir: Path,
    *,
    with_broker: bool = True,
    accepted: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Rules `HOST:PORT/PROTO`; none before the enrolment. Never a network, whatever the enrolment says.

    Args:
        state_dir: of the daemon.
        with_broker: False where the owner has written another place for it.
        accepted: root's file of the places that were accepted; None: whatever the enrolment says.
        warn: told when the enrolment says something else.

    Raises:
        IdentityError: the enrolment cannot be read.
        PolicyError: `accepted` cannot be believed, or the enrolment names no host.
    """
    urls = _urls(state_dir)
    if urls is None:
        return ()
    rules = _rules(urls, with_broker=with_broker)
    if accepted is None:
        return rules
    for rule in rules:
        read_rule(rule)  # nothing is accepted that could not be allowed
    kept = settle(accepted, urls, warn)
    return rules if kept == urls else _rules(kept, with_broker=with_broker)


def _rules(urls: Urls, *, with_broker: bool) -> tuple[str, ...]:
    ca, broker = urls
    rules = [_ca_rule(ca)]
    if with_broker:
        try:
            place = read_broker(broker)
        except PolicyError as error:
            raise IdentityError(f"the enrolment: {error}; enrol again") from None
        rules.append(f"{_host(place.host)}:{place.port}/tcp")
    return tuple(dict.fromkeys(rules))


def _urls(state_dir: Path) -> Urls | None:
    path = state_dir / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(read_private(path))
        url, broker_url = record["url"], record["answer"]["broker_url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        url = broker_url = None
    if not _is_plain(url) or not _is_plain(broker_url):
        raise KeyFileError(f"{path} is damaged; enrol again")
    return url, broker_url


def _is_plain(url: object) -> bool:
    return isinstance(url, str) and url.isascii() and url.isprintable() and len(url) <= _MAX_URL_CHARS


def _ca_rule(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _HTTPS
    except ValueError:
        raise IdentityError(f"{url!r} in the enrolment is no URL; enrol again") from None
    return f"{_host(host)}:{port}/tcp"


def _host(text: str) -> str:
    return f"[{text}]" if ":" in text else text
