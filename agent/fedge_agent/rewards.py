"""What this device knows of its rewards, without any network: which rounds counted it, and where rewards go.

A device has no access to the chain, so it cannot know what was paid or claimed; it says so instead of guessing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedge_agent.identity import credentials, keys, record
from fedge_agent.store import DeviceStore, PastRound

_ALL: Final = -1
_COUNTED: Final = "included"
SEALED: Final = Path("/etc/credstore.encrypted")


@dataclass(frozen=True)
class CountedRounds:
    """How many rounds of a job counted this device's update, and the last of them."""

    job: str
    rounds: int
    last: int


@dataclass(frozen=True)
class Rewards:
    """The device's own view.

    Attributes:
        payout: 20 bytes, the address that is paid.
        account: 20 bytes, the chain key's address.
        chain_id: 0: the fleet settles by a ledger of its coordinator's.
        key_file: what payments to the device's own account are spent with.
        sealed: it is kept encrypted, for this machine alone.
    """

    device: str
    fleet: str
    payout: bytes
    account: bytes
    chain_id: int
    key_file: Path
    counted: tuple[CountedRounds, ...]
    sealed: bool = False

    @property
    def lost_with_the_key(self) -> bool:
        """Whether rewards may be lost for ever with the chain key of this device."""
        return self.payout == self.account and bool(self.counted)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "device": self.device,
            "fleet": self.fleet,
            "payout": "0x" + self.payout.hex(),
            "account": "0x" + self.account.hex(),
            "chain_id": self.chain_id,
            "key_file": str(self.key_file),
            "lost_with_the_key": self.lost_with_the_key,
            "jobs": [{"job": job.job, "rounds": job.rounds, "last_round": job.last} for job in self.counted],
        }

    def text(self) -> str:
        """For people."""
        own = self.payout == self.account
        lines = [
            f"{self.device} of fleet {self.fleet}: rewards go to 0x{self.payout.hex()}"
            + (", this device's own account" if own else ""),
            *(f"  {job.job}: counted in {job.rounds} rounds, the last was {job.last}" for job in self.counted),
        ]
        if not self.counted:
            return "\n".join([*lines, "  no round has counted this device yet"])
        place = f"chain {self.chain_id}" if self.chain_id else "the coordinator's ledger"
        lines.append(f"What of it was paid, only {place} knows: ask the operator (fedgectl get rewards).")
        if own:
            how = "keep a copy (systemd-creds decrypt), this machine alone can read it" if self.sealed else "keep it"
            lines.append(f"Whatever is paid there can be spent only with {self.key_file}: {how}.")
        return "\n".join(lines)


def by_job(rounds: Iterable[PastRound]) -> tuple[CountedRounds, ...]:
    """By job, the rounds that this device is to be rewarded for, if the job rewards."""
    found: dict[str, list[int]] = {}
    for past in rounds:
        if past.outcome == _COUNTED:
            found.setdefault(past.job, []).append(past.round)
    return tuple(CountedRounds(job, len(numbers), max(numbers)) for job, numbers in sorted(found.items()))


def rewards_of(state_dir: Path) -> Rewards:
    """Read the enrolment and the record of rounds.

    Raises:
        IdentityError: not enrolled, or its files cannot be used.
        StoreUnusableError: the record of rounds is damaged.
    """
    enrolment = record.look(state_dir)
    path = state_dir / "state.db"
    counted: tuple[CountedRounds, ...] = ()
    if path.exists():
        store = DeviceStore(path, lambda: 0)
        try:
            counted = by_job(store.rounds(_ALL))
        finally:
            store.close()
    device, key_file = enrolment.device, keys.chain_key_file(state_dir)
    sealed = credentials.holds(key_file) or (key_file.exists() and not key_file.stat().st_size)
    return Rewards(
        device=enrolment.device_id,
        fleet=enrolment.fleet,
        payout=device.payout,
        account=device.chain_address,
        chain_id=enrolment.chain_domain.chain_id,
        key_file=SEALED / credentials.CHAIN_KEY if sealed else key_file,
        counted=counted,
        sealed=sealed,
    )
