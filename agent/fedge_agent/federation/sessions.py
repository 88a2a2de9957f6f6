"""Each connection is a session, and nothing is said in it before the coordinator has confirmed it.

Sans I/O, but for the record on disk. A connection gets a number and a random name; the coordinator answers with the
newest session and the newest READY that it knows of this device. A disk that remembers both is the one that spoke last.
A copy of it, or a restored backup, does not, and stops for good before anything that it signs could leave it.
"""

from collections.abc import Callable

import msgspec

from fedge_agent.identity.host import Host
from fedge_agent.session_record import Duplicate, Mark
from fedge_agent.store import DeviceStore
from fedge_protocol.messages import Session, Standing, Verdict

_VERSION = 1
_NOTHING = bytes(16)


class Sessions:
    """The session of the present connection, and whether this identity is a duplicate.

    Args:
        device: this device's id.
        store: its memory.
        host: what tells this machine from others.
        random: n -> n random bytes.
    """

    def __init__(self, device: str, store: DeviceStore, host: Host, random: Callable[[int], bytes]) -> None:
        store.sessions.belongs_to(device)
        self._store = store
        self._host = host
        self._random = random
        self._announced: Session | None = None
        self._pending: Session | None = None
        self._confirmed = False

    @property
    def confirmed(self) -> bool:
        """Whether this connection's session is known to the coordinator: only then anything else may be said."""
        return self._confirmed

    @property
    def mark(self) -> Mark | None:
        """Why this identity is a duplicate, if it is one."""
        return self._store.sessions.mark

    @property
    def over(self) -> bool:
        """Whether this disk will never speak under this identity again: it is behind, and the coordinator knows.

        It had better not connect at all, since it would only push the other copy off the broker.
        """
        return self._behind and self._store.sessions.told

    @property
    def _behind(self) -> bool:
        return self.mark is not None and self.mark.duplicate is Duplicate.BEHIND

    @property
    def pending(self) -> Session | None:
        """What is to be said until it is answered; None when there is nothing to say, or nobody to say it to."""
        return self._pending

    def begin(self) -> None:
        """The broker has accepted us: a session begins."""
        name = self._random(16)
        self._confirmed = False
        self._announced = self._pending = Session(
            version=_VERSION,
            counter=self._store.sessions.begin(name),
            session=name,
            challenge=_NOTHING,
            remembers=False,
            machine=self._host.machine,
            hardware=self._host.hardware,
        )

    def end(self) -> None:
        """The connection is gone, and its session with it."""
        self._announced = self._pending = None
        self._confirmed = False

    def answered(self, body: Standing) -> bool:
        """Take the coordinator's word on this session; returns whether anything changed. Of another session: nothing.

        What it says is on disk when this returns: first remembered, then acted upon.
        """
        announced = self._announced
        if announced is None or body.session != announced.session:
            return False
        match body.verdict:
            case Verdict.PROVE if not self._confirmed:
                self._prove(announced, body)
            case Verdict.WELCOME if not self._confirmed and not self._behind:
                self._store.sessions.confirmed(announced.counter)
                self._confirmed, self._pending = True, None
            case Verdict.DUPLICATE:
                reason = Duplicate.OTHER_HOST if body.reason == Duplicate.OTHER_HOST else Duplicate.SEEN_TWICE
                self._store.sessions.stop(reason)  # what this disk found out itself stands
                self._store.sessions.coordinator_knows()
                # What the operator may accept again is asked for again; a disk that is behind has nothing to ask.
                self._confirmed, self._pending = False, None if self._behind else announced
            case _:
                return False
        return True

    def _prove(self, announced: Session, body: Standing) -> None:
        record = self._store.sessions
        remembers = record.remembers(body.counter, body.last) and (
            not body.ready or self._store.has_message(body.ready)
        )
        if not remembers:
            record.stop(Duplicate.BEHIND)
        record.prove(announced.counter)
        self._pending = msgspec.structs.replace(announced, challenge=body.challenge, remembers=remembers)
