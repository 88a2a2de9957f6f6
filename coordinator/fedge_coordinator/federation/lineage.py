"""Is this the disk that spoke last? Judges the sessions of devices; what to tell them is the hub's business.

A device is asked to prove that it remembers its newest session and its newest READY. The question carries a random
challenge, because what a broker kept of an older connection must prove nothing, neither for nor against a device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedge_coordinator.store.device_sessions import DeviceSessions, Lineage
from fedge_protocol.messages import Session, Standing, Verdict

BEHIND: Final = "behind"
OTHER_HOST: Final = "other-host"
SEEN_TWICE: Final = "seen-twice"
"""Told to a disk that is in order itself: another one with its keys has spoken."""
_VERSION: Final = 1
_MOST_CHALLENGES: Final = 4
"""Of one device: its copies take turns at the broker."""


@dataclass(frozen=True)
class _Question:
    """What a session was asked: an answer to it holds as long as nothing else was heard of the device meanwhile."""

    challenge: bytes
    known: Lineage


@dataclass(frozen=True)
class Judgement:
    """What to say to whom; `found` is the reason when the identity was found to be a duplicate just now."""

    answers: tuple[Standing, ...]
    found: str = ""

    @property
    def welcome(self) -> bool:
        """Whether the device may go on from here."""
        return any(answer.verdict is Verdict.WELCOME for answer in self.answers)


class Sessions:
    """Challenges that are out, and the judgement of what comes back. Call it inside the store's transaction.

    Args:
        store: the newest session of each device.
        random: n -> n random bytes.
    """

    def __init__(self, store: DeviceSessions, random: Callable[[int], bytes]) -> None:
        self._store = store
        self._random = random
        self._asked: dict[str, dict[bytes, _Question]] = {}

    def judge(self, device: str, said: Session) -> Judgement:
        """Take a SESSION of a member whose signature holds."""
        known, mark = self._store.lineage(device), self._store.duplicate(device)
        same = (said.counter, said.session) == (known.counter, known.session)
        if same and mark is None:
            return Judgement((self._answer(said, known, Verdict.WELCOME),))
        asked = self._asked.setdefault(device, {})
        if asked.get(said.session) != _Question(said.challenge, known):
            challenge = self._ask(asked, said.session, known)
            return Judgement((self._answer(said, known, Verdict.PROVE, challenge=challenge),))
        del asked[said.session]
        reason = fault(known, said)
        if mark is None and not reason:
            self._store.adopt(device, said.counter, said.session, machine=said.machine, hardware=said.hardware)
            return Judgement((self._answer(said, known, Verdict.WELCOME),))
        if mark is None:
            self._store.mark(device, reason)
        answers = (self._answer(said, known, Verdict.DUPLICATE, reason=reason or SEEN_TWICE),)
        if mark is not None:
            return Judgement(answers)
        # The one that spoke last may be connected still.
        other = self._answer(said, known, Verdict.DUPLICATE, reason=SEEN_TWICE, session=known.session)
        return Judgement((*answers, other), found=reason)

    def _ask(self, asked: dict[bytes, "_Question"], session: bytes, known: Lineage) -> bytes:
        """The challenge for a session; the same again, unless the device has said something since it was asked."""
        question = asked.get(session)
        if question is None or question.known != known:
            asked.pop(session, None)
            while len(asked) >= _MOST_CHALLENGES:
                del asked[next(iter(asked))]
            question = asked[session] = _Question(self._random(16), known)
        return question.challenge

    @staticmethod
    def _answer(
        said: Session,
        known: Lineage,
        verdict: Verdict,
        *,
        challenge: bytes = bytes(16),
        reason: str = "",
        session: bytes | None = None,
    ) -> Standing:
        return Standing(
            version=_VERSION,
            session=said.session if session is None else session,
            challenge=challenge,
            verdict=verdict,
            reason=reason,
            counter=known.counter,
            last=known.session,
            ready=known.ready,
        )


def fault(known: Lineage, proved: Session) -> str:
    """Why a proved session cannot be of the disk that spoke last on its machine; empty when it can.

    Hardware decides where both serial numbers are known, machine-id otherwise: a system that makes itself a new one at
    every start is still the same machine.
    """
    if not proved.remembers or (proved.counter <= known.counter and proved.session != known.session):
        return BEHIND
    if known.hardware and proved.hardware:
        return "" if known.hardware == proved.hardware else OTHER_HOST
    if known.machine and proved.machine and known.machine != proved.machine:
        return OTHER_HOST
    return ""
