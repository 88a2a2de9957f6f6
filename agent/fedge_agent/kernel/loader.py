"""`fedge-bpf attach|refresh|save|detach|status`: the short-lived privileged program of the kernel layer.

Exit status: 0 done; 1 refused, the message names the cure; 2 wrong usage; 3 `status` found network admission
not enforced; 75 a name cannot be resolved now, try again; 78 the configuration cannot be used. In the last two cases
the policy that was in force stays in force.
"""

import argparse
import json
import pwd
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedge_agent.kernel import attach as attaching
from fedge_agent.kernel import budget, capabilities, policy_change
from fedge_agent.kernel.attach import ProgramStatus, State
from fedge_agent.kernel.builds import Compiler, Sources
from fedge_agent.kernel.capabilities import Capability
from fedge_agent.kernel.cgroup import unit_cgroup
from fedge_agent.kernel.errors import KernelLayerError, PolicyError, ResolverError
from fedge_agent.kernel.programs import Feature

EXIT_REFUSED = 1
EXIT_NOT_ENFORCED = 3
EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedge-bpf", description="Puts Fedge's kernel programs in place. Mounts nothing."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--output", choices=("text", "json"), default="text")
    common.add_argument("--config", type=Path, help="agent.toml; options given here come before it")
    common.add_argument("--pin-dir", type=Path, help=f"on a BPF file system [{attaching.DEFAULT_PIN_DIR}]")
    common.add_argument("--budget-file", type=Path, help=f"the day's bytes [{budget.DEFAULT_DIRECTORY}/NAME.budget]")
    commands = parser.add_subparsers(dest="command", required=True)
    attach = commands.add_parser("attach", parents=[common], help="load, attach, pin; run again, it updates in place")
    attach.add_argument("--cgroup", type=Path, help="the agent's cgroup v2 directory [this process's own]")
    attach.add_argument("--mode", choices=("require", "prefer", "audit", "off"), help="network admission [require]")
    attach.add_argument("--reader-uid", type=int, help="telemetry is readable by this user's primary group")
    attach.add_argument("--reader-gid", type=int, help="telemetry is readable by this group")
    attach.add_argument("--object-dir", type=Path, help="where the .bpf.o files are [installed, else bpf/build]")
    attach.add_argument("--compiler", choices=[c.value for c in Compiler], default="auto", help="[%(default)s]")
    refresh = commands.add_parser(
        "refresh", parents=[common], help="resolve names again, put the policy in force, save"
    )
    for command in (attach, refresh):
        command.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="HOST_OR_CIDR:PORT/PROTO",
            help="may be repeated; none anywhere: nothing is allowed",
        )
        command.add_argument("--policy", type=Path, action="append", default=[], help="file of rules, one a line")
        command.add_argument(
            "--enrolment",
            type=Path,
            metavar="DIR",
            help="allow the CA and broker of the enrolment in this state directory",
        )
        command.add_argument("--rate-kib-per-s", type=_positive, help="pace of every TCP connection")
        command.add_argument("--daily-budget-mib", type=_positive, help="most bytes a day, both ways")
        command.add_argument("--endpoints", type=Path, help="file of allowed addresses to write")
        command.add_argument("--address-expiry-s", type=_positive, help="how long an address outlives its name")
    commands.add_parser("save", parents=[common], help="write the day's budget to its file; run it by a timer")
    commands.add_parser("detach", parents=[common], help="save the budget and remove every pin: the network is open")
    status = commands.add_parser("status", parents=[common], help="what is attached")
    status.add_argument("--cgroup", type=Path, help="compare with this cgroup")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def enforced(programs: Sequence[ProgramStatus]) -> bool:
    """Whether every program of network admission is attached."""
    wanted = [p for p in programs if p.program.feature is Feature.NETWORK_ADMISSION]
    return bool(wanted) and all(p.state is State.ATTACHED for p in wanted)


def _print(arguments: argparse.Namespace, record: dict[str, object], text: str) -> None:
    print(json.dumps(record) if arguments.output == "json" else text)  # noqa: T201 - the output


def _warn(arguments: argparse.Namespace, text: str) -> None:
    print(f"fedge-bpf {arguments.command}: warning: {text}", file=sys.stderr)  # noqa: T201 - the output


def _report(programs: Sequence[ProgramStatus], arguments: argparse.Namespace, **extra: object) -> None:
    rows = [
        {
            "name": p.program.name,
            "object": p.program.object_name.value,
            "section": p.program.section,
            "feature": p.program.feature.value,
            "state": p.state.value,
            "compiler": p.compiler,
            "detail": p.detail,
            "change": p.change,
            "substitute": p.program.substitute,
        }
        for p in programs
    ]
    lines = []
    for p in programs:
        note = p.detail or (f"{p.change} by {p.compiler}" if p.change else "")
        if p.state is not State.ATTACHED and p.program.substitute:
            note += f" (instead: {p.program.substitute})"
        lines.append(f"{p.state.value:9} {p.program.name:16} {p.program.section:44} {note}".rstrip())
    record = {"pin_dir": str(arguments.pin_dir), "admission_enforced": enforced(programs), "programs": rows, **extra}
    _print(arguments, record, "\n".join(lines))


def _reader_gid(arguments: argparse.Namespace) -> int | None:
    if arguments.reader_gid is not None:
        return int(arguments.reader_gid)
    if arguments.reader_uid is None:
        return None if arguments.enrolment is None else int(arguments.enrolment.stat().st_gid)
    try:
        return pwd.getpwuid(arguments.reader_uid).pw_gid
    except KeyError as error:
        raise KernelLayerError(f"no user has uid {arguments.reader_uid}; give --reader-gid") from error


def _attach(arguments: argparse.Namespace, wanted: policy_change.Wanted) -> int:
    gid = _reader_gid(arguments)
    place = arguments.cgroup or wanted.cgroup
    cgroup = place.resolve() if place else unit_cgroup()
    sources = Sources(arguments.object_dir or attaching.find_objects(), arguments.pin_dir, Compiler(arguments.compiler))
    prior, warning = policy_change.saved_budget(wanted, arguments.budget_file)
    for text in (*wanted.warnings, *([warning] if warning else [])):
        _warn(arguments, text)
    begin_s = time.perf_counter()
    with attaching.open_events() as events:
        capabilities.keep_only(Capability)
        request = attaching.Request(sources, cgroup, wanted.policy, prior, events=events, reader_gid=gid)
        programs = policy_change.attach_as(wanted.mode, request, lambda text: _warn(arguments, text))
    load_ms = round((time.perf_counter() - begin_s) * 1000, 1)
    capabilities.keep_only(())
    if wanted.policy is not None and enforced(programs):
        policy_change.publish(wanted, lambda text: _warn(arguments, text))
    # the unit binds the pins into its own mount namespace, where nothing is in the way
    closed = attaching.closed_parent(arguments.pin_dir) if gid is not None and arguments.enrolment is None else None
    if closed is not None:
        cure = f"chmod o+x {closed}, or bind {arguments.pin_dir} into the daemon's mount namespace, as its unit does"
        _warn(arguments, f"readers cannot pass {closed}; {cure}")
    allowed = [str(a) for a in wanted.policy.allow] if wanted.policy is not None else []
    extra = {"cgroup": str(cgroup), "mode": wanted.mode, "allowed": allowed, "load_ms": load_ms}
    _report(programs, arguments, **extra, capabilities=capabilities.effective())
    return 0


def _refresh(arguments: argparse.Namespace, wanted: policy_change.Wanted) -> int:
    for text in wanted.warnings:
        _warn(arguments, text)
    capabilities.keep_only(Capability)
    policy_change.put_in_force(wanted, arguments.pin_dir)
    policy_change.publish(wanted, lambda text: _warn(arguments, text))
    budget.save(arguments.pin_dir, arguments.budget_file, budget.today())
    allowed = [str(a) for a in wanted.policy.allow] if wanted.policy is not None else []
    _print(arguments, {"allowed": allowed}, f"{len(allowed)} entries are allowed")
    return 0


def _save(arguments: argparse.Namespace, _: policy_change.Wanted) -> int:
    saved = budget.save(arguments.pin_dir, arguments.budget_file, budget.today())
    if saved is None:
        _print(arguments, {"budget": None}, "no budget is counted")
        return 0
    record = {"left_bytes": saved.left_bytes, "limit_bytes": saved.limit_bytes, "day": saved.day}
    _print(arguments, {"budget": record}, f"{saved.left_bytes} of {saved.limit_bytes} bytes are left today")
    return 0


def _detach(arguments: argparse.Namespace, _: policy_change.Wanted) -> int:
    budget.save(arguments.pin_dir, arguments.budget_file, budget.today())
    removed = attaching.detach(arguments.pin_dir)
    _print(arguments, {"removed": removed}, f"{removed} pins removed")
    return 0


def _status(arguments: argparse.Namespace, _: policy_change.Wanted) -> int:
    programs = attaching.status(arguments.pin_dir, arguments.cgroup)
    found = budget.read_kernel(arguments.pin_dir)
    extra: dict[str, object] = {}
    if found is not None:
        rule, left = found
        extra = {
            "audit": rule.audit,
            "rate_bytes_per_s": rule.rate_bytes_per_s or None,
            "budget": {"left_bytes": left.left_bytes, "limit_bytes": left.limit_bytes} if left.limit_bytes else None,
        }
    _report(programs, arguments, **extra)
    return 0 if enforced(programs) else EXIT_NOT_ENFORCED


_COMMANDS = {"attach": _attach, "refresh": _refresh, "save": _save, "detach": _detach, "status": _status}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        wanted = policy_change.wanted_by(arguments)
        return _COMMANDS[arguments.command](arguments, wanted)
    except PolicyError as error:
        print(f"fedge-bpf {arguments.command}: {error}", file=sys.stderr)  # noqa: T201 - the output
        if arguments.command == "attach" and arguments.enrolment is not None:
            return _attach(arguments, policy_change.nothing_allowed(arguments))
        return EXIT_CONFIG
    except ResolverError as error:
        print(f"fedge-bpf {arguments.command}: {error}", file=sys.stderr)  # noqa: T201 - the output
        return EXIT_TRY_AGAIN
    except (KernelLayerError, OSError) as error:
        print(f"fedge-bpf {arguments.command}: {error}", file=sys.stderr)  # noqa: T201 - the output
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
