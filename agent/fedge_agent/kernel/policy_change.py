"""From what the owner wrote to what the kernel enforces: everything is read and resolved before anything changes."""

import argparse
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from fedge_agent.kernel import budget_file, places
from fedge_agent.kernel.cgroup import unit_cgroup
from fedge_agent.kernel.endpoints import DEFAULT_EXPIRY_S, Resolver, encoded, read_endpoints
from fedge_agent.kernel.errors import KernelLayerError, PolicyError
from fedge_agent.kernel.frozen import replace
from fedge_agent.kernel.orders import Order
from fedge_agent.kernel.policy_file import KernelSettings, WrittenRule, read_config, read_policy, resolve, written
from fedge_agent.kernel.policy_records import MAX_RATE_BYTES_PER_S

_KIB = 1024
_MIB = 1024 * 1024


def order_for(arguments: argparse.Namespace) -> Order:
    """Joins options and configuration, and resolves the rules.

    Raises:
        PolicyError: a rule, name or value cannot be used.
        ResolverError: a name cannot be resolved now.
        CgroupError: the agent's cgroup is not named, and this process has none of its own.
    """
    settings = KernelSettings() if arguments.config is None else read_config(arguments.config)
    order = _placed(arguments, settings)
    if order.command not in ("attach", "refresh"):
        return order
    mode = getattr(arguments, "mode", None) or settings.mode or ("require" if arguments.config is None else "prefer")
    warnings: list[str] = []
    rules = _rules(arguments, settings, Path(order.budget_file).with_suffix(".enrolment"), warnings.append)
    if mode == "off":
        return replace(order, mode=mode)
    place = arguments.endpoints or settings.endpoints
    resolver = Resolver(
        read_endpoints(place, owner_uid=os.geteuid()) if place is not None else (),
        grace_s=arguments.address_expiry_s or settings.address_expiry_s or DEFAULT_EXPIRY_S,
    )
    allow, endpoints = resolve(rules, resolver)
    rate = settings.rate_bytes_per_s if arguments.rate_kib_per_s is None else arguments.rate_kib_per_s * _KIB
    limit = settings.daily_budget_bytes if arguments.daily_budget_mib is None else arguments.daily_budget_mib * _MIB
    if rate is not None and rate > MAX_RATE_BYTES_PER_S:
        raise PolicyError(f"--rate-kib-per-s {rate // _KIB} is more than 4194303")
    order = replace(
        order,
        mode=mode,
        guarded=True,
        allow=tuple(entry.key() for entry in allow),
        allowed=tuple(str(entry) for entry in allow),
        rate_bytes_per_s=rate,
        limit_bytes=limit,
        publish=None if place is None else (str(place), encoded(endpoints)),
        warnings=(*warnings, *resolver.warnings),
    )
    return _with_saved_budget(order)


def nothing_allowed(arguments: argparse.Namespace) -> Order:
    """For a unit whose policy cannot be used: its daemon starts, can reach nobody, and says itself what is wrong.

    A start that fails would be tried again and again; the daemon's own refusal is final until somebody acts.
    """
    order = _placed(arguments, KernelSettings())
    return replace(order, mode="prefer", guarded=True, warnings=("nothing is allowed until this is mended",))


def _placed(arguments: argparse.Namespace, settings: KernelSettings) -> Order:
    pin_dir = arguments.pin_dir or settings.pin_dir or places.DEFAULT_PIN_DIR
    saved = arguments.budget_file or Path(budget_file.DEFAULT_DIRECTORY) / f"{pin_dir.name}.budget"
    cgroup = getattr(arguments, "cgroup", None)
    order = Order(arguments.command, arguments.output == "json", pin_dir=str(pin_dir), budget_file=str(saved))
    if arguments.command == "attach":
        found = cgroup or settings.cgroup
        cgroup = found.resolve() if found is not None else unit_cgroup()
        order = replace(
            order,
            object_dir=str(arguments.object_dir or places.find_objects()),
            compiler=arguments.compiler,
            reader_gid=_reader_gid(arguments),
            daemon_binds=arguments.enrolment is not None,
        )
    return replace(order, cgroup=None if cgroup is None else str(cgroup))


def _rules(
    arguments: argparse.Namespace, settings: KernelSettings, accepted: Path, warn: Callable[[str], None]
) -> list[WrittenRule]:
    rules = [written(text, "--allow") for text in arguments.allow]
    rules += [rule for path in arguments.policy for rule in read_policy(path)]
    rules += settings.rules
    if settings.proxy is not None:  # the way to everybody else, whose names are its business
        return [*rules, settings.proxy]
    if settings.broker is not None:
        rules.append(settings.broker)
    if arguments.enrolment is None:
        return rules
    found = _enrolment_rules(arguments.enrolment, accepted, warn, with_broker=settings.broker is None)
    return rules + [written(text, "the enrolment") for text in found]


def _reader_gid(arguments: argparse.Namespace) -> int | None:
    if arguments.reader_gid is not None:
        return int(arguments.reader_gid)
    if arguments.reader_uid is None:
        return None if arguments.enrolment is None else int(arguments.enrolment.stat().st_gid)
    try:
        return pwd.getpwuid(arguments.reader_uid).pw_gid
    except KeyError as error:
        raise KernelLayerError(f"no user has uid {arguments.reader_uid}; give --reader-gid") from error


def _enrolment_rules(
    state_dir: Path, accepted: Path, warn: Callable[[str], None], *, with_broker: bool
) -> tuple[str, ...]:
    from fedge_agent.identity.errors import IdentityError  # noqa: PLC0415 - 60 ms, for the unit's call alone
    from fedge_agent.unit_policy import enrolment_rules  # noqa: PLC0415

    try:
        return enrolment_rules(state_dir, with_broker=with_broker, accepted=accepted, warn=warn)
    except IdentityError as error:
        raise PolicyError(str(error)) from error


def _with_saved_budget(order: Order) -> Order:
    """With the day's budget from its file.

    A file that cannot be believed counts as a spent day: a hard budget must not be refilled by damaging it.
    """
    if order.limit_bytes is None:
        return order
    try:
        found = budget_file.read(order.budget_file)
    except PolicyError as error:
        spent = (0, order.limit_bytes, budget_file.today())
        return replace(order, saved=spent, warnings=(*order.warnings, f"{error}; until then today counts as spent"))
    return replace(order, saved=None if found is None else (found.left_bytes, found.limit_bytes, found.day))
