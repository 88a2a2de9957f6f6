"""How the daemon gets out: to which broker, through which proxy, by whose addresses, within which budget.

While kernel programs guard the agent, addresses come from the endpoints file alone and the kernel counts the bytes.
Where they do not, the system's resolver serves and, under `prefer`, the agent counts its own bytes; one line says what
that costs.
"""

import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedge_agent.address_book import REQUEST, AddressBook
from fedge_agent.config import Config
from fedge_agent.identity.record import Enrolment
from fedge_agent.kernel.network_urls import BrokerPlace, read_broker, read_proxy
from fedge_agent.kernel.user_budget import FILE, UserBudget
from fedge_agent.kernel_layer import NetworkAdmission
from fedge_transport.proxy import Tunnel
from fedge_transport.route import Proxy, Route, SystemDirectory
from fedge_transport.settings import ConnectionSettings, Will
from fedge_transport.traffic import wire_bytes

_log = logging.getLogger(__name__)
_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_ANSWER_BYTES: Final = 4096
_SHORTEST_TIMEOUT_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class NetworkPath:
    """The way out, decided once at start.

    Attributes:
        book: where addresses come from; None: from the system's resolver.
        proxy: None: straight.
        budget: None: the kernel counts, or nobody need.
        pace_bytes_per_s: None: the programs pace, or nobody need.
    """

    book: AddressBook | None
    proxy: Proxy | None
    budget: UserBudget | None
    pace_bytes_per_s: int | None = None

    @classmethod
    def of(cls, config: Config, network: NetworkAdmission) -> "NetworkPath":
        """The way out of this device."""
        book = None
        if network.guarded:
            endpoints = Path(f"{config.runtime_dir}-bpf") / "endpoints"
            book = AddressBook(endpoints, config.runtime_dir / REQUEST)
        if config.kernel.network != "prefer" or network.enforced:
            return cls(book, _proxy(config), None)
        limit, rate = config.kernel.daily_budget_mib, config.kernel.rate_kib_per_s
        budget = None if limit is None else UserBudget(config.state_dir / FILE, limit * _MIB)
        found = cls(book, _proxy(config), budget, None if rate is None else rate * _KIB)
        _log.warning("%s", found.loss(network))
        return found

    @classmethod
    def of_command(cls, config: Config) -> "NetworkPath":
        """For a command that runs by itself, outside the guarded unit."""
        return cls(None, _proxy(config), None)

    def loss(self, network: NetworkAdmission) -> str:
        """One line: what is off without the kernel's programs, and what it costs."""
        counted = "there is no daily budget"
        if self.budget is not None:
            counted = (
                f"the daily budget of {self.budget.limit_bytes // _MIB} MiB is counted by the agent itself, which "
                "closes its connection when it is spent"
            )
        pace = "" if self.pace_bytes_per_s is None else "the pace is asked for by the agent itself, "
        return (
            f"the kernel does not guard the network ({network.detail}): there is no allow-list, names are resolved by "
            f"the system, {pace}{counted}; cure: fedge-bpf attach, or fedge-agent doctor for what it lacks"
        )

    @property
    def route(self) -> Route:
        """For the connection to the broker."""
        return Route(self.book or SystemDirectory(), self.proxy, self.budget, self.pace_bytes_per_s)

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A blocking connection for a thread: the CA's.

        Raises:
            OSError: nobody answers, the proxy refuses, or the day's bytes are spent.
        """
        if self.budget is not None and self.budget.spent:
            raise OSError("the day's bytes are spent (kernel.daily_budget_mib)")
        hop, hop_port = (host, port) if self.proxy is None else (self.proxy.host, self.proxy.port)
        last: OSError | None = None
        for address in (hop,) if self.book is None else self.book.known(hop, hop_port):
            try:
                found = socket.create_connection((address, hop_port), timeout_s)
            except OSError as error:
                last = error
                continue
            try:
                self._tunnel(found, host, port, timeout_s)
            except BaseException:
                found.close()
                raise
            return found
        if self.book is not None:
            self.book.unreachable(hop, hop_port)
        raise last if last is not None else OSError(f"{hop} has no address")

    def done(self, used: socket.socket) -> None:
        """Count what a connection made by `dial` has cost, before it is closed."""
        if self.budget is not None:
            self.budget.use(wire_bytes(used))

    def told(self) -> dict[str, Any]:
        """For status."""
        proxy = None if self.proxy is None else f"{self.proxy.host}:{self.proxy.port}"
        return {
            "addresses_from": "the system's resolver" if self.book is None else "the refresher",
            "proxy": proxy,
            "budget_left_bytes": None if self.budget is None else self.budget.left_bytes,
        }

    def close(self) -> None:
        """Save the budget."""
        if self.budget is not None:
            with suppress(OSError):
                self.budget.close()

    def _tunnel(self, made: socket.socket, host: str, port: int, timeout_s: float) -> None:
        if self.proxy is None:
            return
        tunnel = Tunnel(host, port, self.proxy.credentials())
        made.sendall(tunnel.request)
        end_s = time.monotonic() + timeout_s
        while not tunnel.feed(made.recv(_ANSWER_BYTES)):  # drop by drop, it must not take longer
            made.settimeout(max(end_s - time.monotonic(), _SHORTEST_TIMEOUT_S))
        made.settimeout(timeout_s)


def _proxy(config: Config) -> Proxy | None:
    if config.network.proxy is None:
        return None
    place, secret = read_proxy(config.network.proxy), config.network.proxy_credentials
    return Proxy(place.host, place.port, None if secret is None else Path(secret))


def broker_of(config: Config, enrolment: Enrolment) -> BrokerPlace:
    """Where the owner says the broker is, or else the enrolment."""
    return read_broker(config.network.broker or enrolment.broker_url)


def connection_settings(place: BrokerPlace, enrolment: Enrolment, will: Will) -> ConnectionSettings:
    """For the connection to the broker, whose certificate must carry the name in `place`, whatever its address."""
    return ConnectionSettings(
        host=place.host,
        port=place.port,
        client_id=enrolment.device_id,
        ca_file=enrolment.ca_file,
        cert_file=enrolment.certificate_file,
        key_file=enrolment.key_file,
        websocket_path=place.websocket_path,
        will=will,
    )
