"""Where the daemon finds addresses while the kernel guards it: in what the refresher resolved and allowed, only there.

The daemon asks no name server, and may reach none. What it can do is to ask the refresher to look again, by touching a
file that `fedge-policy.path` watches: when a name is missing, when the name server's word for it has ended, and when no
address of it answers.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from fedge_agent.kernel.endpoints import Resolved, addresses_of, boot_time_s, endpoint_of, read_endpoints
from fedge_transport.errors import AddressUnknownError
from fedge_transport.route import is_address

_log = logging.getLogger(__name__)
REQUEST: Final = "refresh-wanted"
"""In the runtime directory; see fedge-policy.path."""
_ASK_EVERY_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.5
_WAIT_FOR_FIRST_S: Final = 10.0
_WAIT_FOR_FRESH_S: Final = 3.0


class AddressBook:
    """The endpoints file as a directory of names (`fedge_transport.route.Directory`).

    Args:
        endpoints: the file, root's alone to write.
        request: touched to ask for a refresh.
        owner_uid: who must own the file.
        boot_s: CLOCK_BOOTTIME, by which addresses expire.
        clock: monotonic seconds.
        pause: waits so many of them.
    """

    def __init__(
        self,
        endpoints: Path,
        request: Path,
        *,
        owner_uid: int = 0,
        boot_s: Callable[[], int] = boot_time_s,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = endpoints
        self._request = request
        self._owner_uid = owner_uid
        self._boot_s = boot_s
        self._clock = clock
        self._pause = pause
        self._asked_at_s = float("-inf")
        self._turn = 0

    async def find(self, host: str, port: int) -> tuple[str, ...]:
        """The allowed addresses, IPv6 and IPv4 by turns; waits a little for the refresher where it has work to do.

        Raises:
            AddressUnknownError: there is none, and the refresher gave none in ten seconds.
        """
        if is_address(host):
            return (host,)
        begin_s = self._clock()
        while True:
            endpoints = self._read()
            found = addresses_of(endpoints, host, port, self._boot_s())
            if found and self._fresh(endpoints, host, port):
                return self._by_turns(found)
            self.ask_for_refresh()
            waited_s = self._clock() - begin_s
            if found and waited_s >= _WAIT_FOR_FRESH_S:
                return self._by_turns(found)
            if waited_s >= _WAIT_FOR_FIRST_S:
                raise AddressUnknownError(self.absence(host))
            await self._pause(_LOOK_EVERY_S)

    def known(self, host: str, port: int) -> tuple[str, ...]:
        """What is allowed at this moment, for a thread.

        Raises:
            AddressUnknownError: nothing; the refresher was asked.
        """
        if is_address(host):
            return (host,)
        found = addresses_of(self._read(), host, port, self._boot_s())
        if not found:
            self.ask_for_refresh()
            raise AddressUnknownError(self.absence(host))
        return self._by_turns(found)

    def unreachable(self, host: str, port: int) -> None:
        """None of the first addresses answered: the name may have moved, and others come first the next time."""
        _log.info("no address of %s port %d answers; asking for a look at its name", host, port)
        self._turn += 1
        self.ask_for_refresh()

    def ask_for_refresh(self) -> None:
        """Have root's refresher resolve all names again; at most every half minute."""
        now_s = self._clock()
        if now_s - self._asked_at_s < _ASK_EVERY_S:
            return
        self._asked_at_s = now_s
        try:
            self._request.write_text("")
        except OSError as error:
            _log.warning("no refresh can be asked for: %s", error)

    @staticmethod
    def absence(host: str) -> str:
        """One line for status and log."""
        return f"no address of {host} is allowed: waiting for the refresher (systemctl status fedge-policy)"

    def _read(self) -> tuple[Resolved, ...]:
        return read_endpoints(self._path, owner_uid=self._owner_uid)

    def _fresh(self, endpoints: tuple[Resolved, ...], host: str, port: int) -> bool:
        found = endpoint_of(endpoints, host, port)
        return found is not None and (found.fresh_until_s is None or found.fresh_until_s > self._boot_s())

    def _by_turns(self, found: tuple[str, ...]) -> tuple[str, ...]:
        turn = self._turn % len(found)
        turned = found[turn:] + found[:turn]
        newer, older = (tuple(a for a in turned if (":" in a) is six) for six in (True, False))
        pairs: Iterator[tuple[str | None, str | None]] = itertools.zip_longest(newer, older)
        return tuple(address for pair in pairs for address in pair if address is not None)
