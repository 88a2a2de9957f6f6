"""`fedge-agent leave`: says what it means, asks, makes the daemon let go, and leaves."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedge_agent import control, leave
from fedge_agent.config import Config
from fedge_agent.identity.errors import IdentityError, NotEnrolledError
from fedge_agent.identity.keys import CHAIN_KEY
from fedge_agent.leave import Leaving
from fedge_agent.network_path import NetworkPath
from fedge_agent.rewards import Rewards, rewards_of
from fedge_agent.session_record import mark_in
from fedge_agent.store import StoreUnusableError

EX_OK: Final = 0
EX_FAILED: Final = 1
EX_USAGE: Final = 2
_LET_GO_WITHIN_S: Final = 30.0
_LOOK_AGAIN_S: Final = 0.2
Ask = Callable[[str], str]


def leave_fleet(config: Config, options: argparse.Namespace, ask: Ask = input) -> int:
    """Leave, or finish a leave that was interrupted; 0 also when there is nothing to leave."""
    folder = config.state_dir
    try:
        leaving = leave.begun(folder)
        if leaving is None:
            wanted = _wanted(folder, options)
            if wanted is None:
                return _nothing_to_leave(folder, options)
            if not options.yes and not _agreed(ask):
                print("fedge-agent: nothing was changed", file=sys.stderr)
                return EX_FAILED
            leaving = leave.begin(folder, wanted)
        _let_go(config)
        leaving = leave.tell(folder, leaving, time.sleep, way=NetworkPath.of_command(config))
        leave.finish(folder, leaving)
    except (IdentityError, StoreUnusableError) as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_FAILED
    except PermissionError as error:
        print(f"fedge-agent: {error}; run this as root", file=sys.stderr)
        return EX_FAILED
    _report(folder, leaving, options)
    return EX_OK


def _wanted(folder: Path, options: argparse.Namespace) -> Leaving | None:
    """What is to be done, told to the owner; None when the device belongs to no fleet.

    An enrolment or a database that is damaged is no obstacle: leaving is how to get rid of it.
    """
    try:
        rewards = rewards_of(folder)
    except NotEnrolledError:
        return None
    except (IdentityError, StoreUnusableError) as error:
        lines, device, fleet, known = [f"{error}"], "of unknown name", "of unknown name", False
    else:
        lines, device, fleet, known = (
            _means(rewards, discard=options.discard_rewards),
            rewards.device,
            rewards.fleet,
            True,
        )
    copy = mark_in(folder / leave.DATABASE) if known else None
    if copy is not None:
        lines.append(f"WARNING: {copy.line}")
        if not options.offline:
            lines.append("If this disk is the copy: --offline, or the other one's membership ends too.")
    if not known:
        lines.append(
            "Leaving deletes what is left of the enrolment" + (", chain.key too." if options.discard_rewards else ".")
        )
    if not (options.output == "json" and options.yes):
        print("\n".join(lines), file=sys.stderr)
    return Leaving(device, fleet, options.offline, options.discard_rewards)


def _means(rewards: Rewards, *, discard: bool) -> list[str]:
    lines = [
        f"Device {rewards.device} leaves fleet {rewards.fleet!r}: certificate revoked; identity and prekeys deleted."
    ]
    rounds = sum(job.rounds for job in rewards.counted)
    own, account = rewards.payout == rewards.account, f"0x{rewards.account.hex()}"
    if own and rounds:
        lines.append(
            f"{rounds} rounds counted this device. Whatever is paid for them to {account}, now or later, can be had "
            f"only with {rewards.key_file}; what was claimed already, this device does not know."
        )
    elif rounds:
        lines.append(
            f"{rounds} rounds counted this device; they are paid to 0x{rewards.payout.hex()}, not to this device."
        )
    if discard:
        lines.append(
            f"WARNING: {rewards.key_file} is deleted too, for ever" + (": so are these rewards." if own else ".")
        )
    else:
        lines.append(f"{rewards.key_file} stays; save it before you purge the package.")
    return lines


def _agreed(ask: Ask) -> bool:
    if not sys.stdin.isatty() and ask is input:
        print("fedge-agent: nobody is there to ask; give --yes", file=sys.stderr)
        return False
    return ask("Leave the fleet? [y/N] ").strip().lower() in {"y", "yes"}


def _nothing_to_leave(folder: Path, options: argparse.Namespace) -> int:
    key = folder / CHAIN_KEY
    left = f"; {key} is still there" if key.exists() else ""
    if options.discard_rewards and key.exists():
        if not options.yes and not _agreed(input):
            return EX_FAILED
        leave.finish(folder, leave.begin(folder, Leaving("", "", offline=True, discard_rewards=True, tried=True)))
        left = f"; {key} is deleted"
    if options.output == "json":
        print(json.dumps({"left": False, "told": False, "chain_key_kept": key.exists()}, indent=2))
    else:
        print(f"not enrolled: nothing to leave{left}")
    return EX_OK


def _let_go(config: Config) -> None:
    """Have the daemon end its session and forget the keys; returns when it has.

    Raises:
        IdentityError: it does not.
    """
    try:
        control.ask(config.control_socket, "leave")
        until = time.monotonic() + _LET_GO_WITHIN_S
        while time.monotonic() < until:
            _look(config)
            time.sleep(_LOOK_AGAIN_S)
    except control.NoDaemonError:
        return
    except control.DaemonUnreachableError as error:
        raise IdentityError(f"{error}; or: systemctl stop fedge-agent, and give fedge-agent leave again") from None
    raise IdentityError("the daemon still runs; systemctl stop fedge-agent, and give fedge-agent leave again")


def _look(config: Config) -> None:
    """Raises `NoDaemonError` when nobody listens any more; one that does not answer is on its way out."""
    try:
        control.ask(config.control_socket, "status")
    except control.NoDaemonError:
        raise
    except control.DaemonUnreachableError:
        return


def _report(folder: Path, leaving: Leaving, options: argparse.Namespace) -> None:
    key = folder / CHAIN_KEY
    if options.output == "json":
        found = {"left": True, "device": leaving.device, "fleet": leaving.fleet, "told": leaving.told}
        print(json.dumps({**found, "why_not": leaving.why_not, "chain_key_kept": key.exists()}, indent=2))
        return
    print(f"left fleet {leaving.fleet!r}")
    if not leaving.told:
        why = leaving.why_not or "as asked"
        print(f"The fleet was not told ({why}); its operator can do the rest: fedgectl devices revoke {leaving.device}")
    if key.exists():
        print(f"{key} is kept: rewards are claimed with it")
