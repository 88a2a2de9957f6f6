"""From what the owner wrote to what the kernel enforces: everything is read and resolved before anything changes."""

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from fedge_agent.kernel import attach as attaching
from fedge_agent.kernel import budget, libbpf, network_policy
from fedge_agent.kernel.attach import ProgramStatus, Request, State
from fedge_agent.kernel.endpoints import DEFAULT_EXPIRY_S, Resolved, Resolver, read_endpoints, write_endpoints
from fedge_agent.kernel.errors import KernelLayerError, PolicyError
from fedge_agent.kernel.network_policy import NetworkPolicy
from fedge_agent.kernel.policy_file import KernelSettings, read_config, read_policy, resolve, written
from fedge_agent.kernel.programs import ObjectName, programs_of
from fedge_agent.kernel.records import Budget

_KIB = 1024
_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """The whole wish of one call.

    Attributes:
        policy: None when network admission is off.
        endpoints: what to publish; `endpoints_file` None: nowhere.
        warnings: names that could not be resolved again, whose known addresses serve.
    """

    mode: str
    policy: NetworkPolicy | None
    cgroup: Path | None
    endpoints: tuple[Resolved, ...]
    endpoints_file: Path | None
    warnings: tuple[str, ...]


def wanted_by(arguments: argparse.Namespace) -> Wanted:
    """Joins options and configuration, and resolves the rules; fills in `pin_dir` and `budget_file`.

    Raises:
        PolicyError: a rule, name or value cannot be used.
        ResolverError: a name cannot be resolved now.
    """
    settings = KernelSettings() if arguments.config is None else read_config(arguments.config)
    arguments.pin_dir = arguments.pin_dir or settings.pin_dir or attaching.DEFAULT_PIN_DIR
    arguments.budget_file = arguments.budget_file or budget.DEFAULT_DIRECTORY / f"{arguments.pin_dir.name}.budget"
    if arguments.command not in ("attach", "refresh"):
        return Wanted("", None, settings.cgroup, (), None, ())
    mode = getattr(arguments, "mode", None) or settings.mode or ("require" if arguments.config is None else "prefer")
    rules = [written(text, "--allow") for text in arguments.allow]
    rules += [rule for path in arguments.policy for rule in read_policy(path)]
    rules += settings.rules
    rules += [written(text, "the enrolment") for text in _enrolment_rules(arguments.enrolment)]
    place = arguments.endpoints or settings.endpoints
    if mode == "off":
        return Wanted(mode, None, settings.cgroup, (), None, ())
    resolver = Resolver(
        read_endpoints(place, owner_uid=os.geteuid()) if place is not None else (),
        grace_s=arguments.address_expiry_s or settings.address_expiry_s or DEFAULT_EXPIRY_S,
    )
    allow, endpoints = resolve(rules, resolver)
    rate = settings.rate_bytes_per_s if arguments.rate_kib_per_s is None else arguments.rate_kib_per_s * _KIB
    limit = settings.daily_budget_bytes if arguments.daily_budget_mib is None else arguments.daily_budget_mib * _MIB
    if rate is not None and rate > network_policy.MAX_RATE_BYTES_PER_S:
        raise PolicyError(f"--rate-kib-per-s {rate // _KIB} is more than 4194303")
    policy = NetworkPolicy(allow, rate, mode == "audit", limit)
    return Wanted(mode, policy, settings.cgroup, endpoints, place, tuple(resolver.warnings))


def nothing_allowed(arguments: argparse.Namespace) -> Wanted:
    """For a unit whose policy cannot be used: its daemon starts, can reach nobody, and says itself what is wrong.

    A start that fails would be tried again and again; the daemon's own refusal is final until somebody acts.
    """
    arguments.pin_dir = arguments.pin_dir or attaching.DEFAULT_PIN_DIR
    arguments.budget_file = arguments.budget_file or budget.DEFAULT_DIRECTORY / f"{arguments.pin_dir.name}.budget"
    closed = NetworkPolicy((), None, audit=False, daily_budget_bytes=None)
    return Wanted("prefer", closed, None, (), None, ("nothing is allowed until this is mended",))


def _enrolment_rules(state_dir: Path | None) -> tuple[str, ...]:
    if state_dir is None:
        return ()
    from fedge_agent.identity.errors import IdentityError  # noqa: PLC0415 - 60 ms, for the unit's call alone
    from fedge_agent.unit_policy import enrolment_rules  # noqa: PLC0415

    try:
        return enrolment_rules(state_dir)
    except IdentityError as error:
        raise PolicyError(str(error)) from error


def saved_budget(wanted: Wanted, path: Path) -> tuple[Budget | None, str]:
    """The day's budget from its file, and a warning.

    A file that cannot be believed counts as a spent day: a hard budget must not be refilled by damaging it.
    """
    if wanted.policy is None or wanted.policy.daily_budget_bytes is None:
        return None, ""
    limit = wanted.policy.daily_budget_bytes
    try:
        return budget.read_file(path), ""
    except PolicyError as error:
        return Budget(0, limit, budget.today()), f"{error}; until then today counts as spent"


def attach_as(mode: str, request: Request, warn: Callable[[str], None]) -> tuple[ProgramStatus, ...]:
    """Attaches; where the kernel cannot enforce, `require` raises, `prefer` and `audit` go on without.

    Raises:
        KernelLayerError: network admission is required and cannot be.
    """
    try:
        return attaching.attach(request)
    except (KernelLayerError, OSError) as error:
        if mode == "require":
            raise
        reason = str(error).splitlines()[-1]
        warn(f"network admission is off ({reason}): the agent is held to its allow-list and budget by itself alone")
        admission = tuple(ProgramStatus(p, State.ABSENT, reason) for p in programs_of(ObjectName.ADMISSION))
        telemetry = tuple(ProgramStatus(p, State.ABSENT, reason) for p in programs_of(ObjectName.TELEMETRY))
        return (*admission, *(attaching.attach_telemetry(request) if request.pin_dir.is_dir() else telemetry))


def put_in_force(wanted: Wanted, pin_dir: Path) -> None:
    """Changes the policy of programs that are attached.

    Raises:
        KernelLayerError: they are not.
    """
    if wanted.policy is None:
        raise KernelLayerError('kernel.network = "off": there is no policy to refresh')
    known = budget.read_kernel(pin_dir)
    if known is None:
        raise KernelLayerError(f"no programs are attached at {pin_dir}; run fedge-bpf attach")
    opened: dict[str, int] = {}

    def map_fd(name: str) -> int:
        if name not in opened:
            opened[name] = libbpf.open_pin(pin_dir / name)
        return opened[name]

    try:
        prior = known[1] if known[1].limit_bytes else None
        network_policy.put(wanted.policy, map_fd, prior, budget.today())
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def publish(wanted: Wanted, warn: Callable[[str], None]) -> None:
    """Tells the daemon where it may connect, once the kernel allows it; what is in force does not hang on it."""
    if wanted.endpoints_file is not None:
        try:
            write_endpoints(wanted.endpoints_file, wanted.endpoints)
        except OSError as error:
            warn(f"{wanted.endpoints_file} cannot be written ({error.strerror}); its directory must be root's")
