"""`fedge-bpf attach|detach|status`: the short-lived privileged program that puts the kernel layer in place.

Exit status: 0 done; 1 refused, the message names the cure; 2 wrong usage; 3 `status` found network admission
not enforced; 78 agent.toml cannot be used.
"""

import argparse
import json
import pwd
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedge_agent.kernel import attach as attaching
from fedge_agent.kernel import capabilities
from fedge_agent.kernel.allowlist import Allowed, parse_policy, read_policy
from fedge_agent.kernel.attach import ProgramStatus, State
from fedge_agent.kernel.capabilities import Capability
from fedge_agent.kernel.cgroup import unit_cgroup
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.programs import Feature

EXIT_REFUSED = 1
EXIT_NOT_ENFORCED = 3
EXIT_CONFIG = 78


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedge-bpf", description="Puts Fedge's kernel programs in place. Mounts nothing."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--output", choices=("text", "json"), default="text")
    common.add_argument(
        "--pin-dir", type=Path, default=attaching.DEFAULT_PIN_DIR, help="on a BPF file system [%(default)s]"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    attach = commands.add_parser("attach", parents=[common], help="load, attach, pin; run again, it updates in place")
    attach.add_argument("--cgroup", type=Path, help="the agent's cgroup v2 directory [this process's own]")
    attach.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST_OR_CIDR:PORT/PROTO",
        help="may be repeated; none: nothing is allowed",
    )
    attach.add_argument(
        "--agent", type=Path, metavar="FILE", help="as this agent.toml says: mode, user, and the enrolment's endpoints"
    )
    attach.add_argument("--policy", type=Path, help="file of allow rules, one a line")
    attach.add_argument("--reader-uid", type=int, help="telemetry is readable by this user's primary group")
    attach.add_argument("--reader-gid", type=int, help="telemetry is readable by this group")
    attach.add_argument("--object-dir", type=Path, help="where the .bpf.o files are [installed, else bpf/build]")
    commands.add_parser("detach", parents=[common], help="remove every pin: the network is open again")
    status = commands.add_parser("status", parents=[common], help="what is attached")
    status.add_argument("--cgroup", type=Path, help="compare with this cgroup")
    return parser


def enforced(programs: Sequence[ProgramStatus]) -> bool:
    """Whether every program of network admission is attached."""
    wanted = [p for p in programs if p.program.feature is Feature.NETWORK_ADMISSION]
    return bool(wanted) and all(p.state is State.ATTACHED for p in wanted)


def _report(programs: Sequence[ProgramStatus], arguments: argparse.Namespace, **extra: object) -> None:
    if arguments.output == "json":
        lines = [
            {
                "name": p.program.name,
                "object": p.program.object_name.value,
                "section": p.program.section,
                "feature": p.program.feature.value,
                "state": p.state.value,
                "detail": p.detail,
                "change": p.change,
                "substitute": p.program.substitute,
            }
            for p in programs
        ]
        record = {
            "pin_dir": str(arguments.pin_dir),
            "admission_enforced": enforced(programs),
            "programs": lines,
            **extra,
        }
        print(json.dumps(record))  # noqa: T201 - the output
        return
    for p in programs:
        note = p.detail or p.change
        if p.state is not State.ATTACHED and p.program.substitute:
            note += f" (instead: {p.program.substitute})"
        print(f"{p.state.value:9} {p.program.name:16} {p.program.section:36} {note}".rstrip())  # noqa: T201 - the output


def _reader_gid(arguments: argparse.Namespace) -> int | None:
    if arguments.reader_gid is not None:
        return int(arguments.reader_gid)
    if arguments.reader_uid is None:
        return None
    try:
        return pwd.getpwuid(arguments.reader_uid).pw_gid
    except KeyError as error:
        raise KernelLayerError(f"no user has uid {arguments.reader_uid}; give --reader-gid") from error


def _attach(arguments: argparse.Namespace) -> int:
    if arguments.agent is not None:
        return _attach_for_agent(arguments)
    rules = [*arguments.allow, *(read_policy(arguments.policy) if arguments.policy else ())]
    return _attach_allowing(arguments, parse_policy(rules), _reader_gid(arguments))


def _attach_for_agent(arguments: argparse.Namespace) -> int:
    """As the owner's file says: `require` fails with the kernel, `prefer` goes on without it, `off` detaches."""
    from fedge_agent.config import ConfigError, load  # noqa: PLC0415 - the other commands need no configuration
    from fedge_agent.unit_policy import unit_policy  # noqa: PLC0415

    try:
        config = load(arguments.agent)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the output
        return EXIT_CONFIG
    arguments.pin_dir = Path(config.kernel.pin_dir)
    if config.kernel.network == "off":
        return _detach(arguments)
    allow, problems = unit_policy(config.state_dir)
    for problem in problems:
        print(f"fedge-bpf attach: not allowed for now: {problem}", file=sys.stderr)  # noqa: T201 - the output
    try:
        gid = config.state_dir.stat().st_gid
        return _attach_allowing(arguments, allow, gid)
    except (KernelLayerError, OSError) as error:
        if config.kernel.network == "require":
            raise
        print(f'fedge-bpf attach: {error}; going on without, as kernel.network = "prefer" says', file=sys.stderr)  # noqa: T201 - the output
        return 0


def _attach_allowing(arguments: argparse.Namespace, allow: tuple[Allowed, ...], gid: int | None) -> int:
    cgroup = arguments.cgroup.resolve() if arguments.cgroup else unit_cgroup()
    objects = arguments.object_dir or attaching.find_objects()
    capabilities.keep_only(Capability)
    begin_s = time.perf_counter()
    programs = attaching.attach(attaching.Request(arguments.pin_dir, cgroup, allow, objects, gid))
    load_ms = round((time.perf_counter() - begin_s) * 1000, 1)
    capabilities.keep_only(())
    # the unit binds the pins into its own mount namespace, so there nothing is in the way
    closed = attaching.closed_parent(arguments.pin_dir) if gid is not None and arguments.agent is None else None
    if closed is not None:
        cure = f"chmod o+x {closed}, or bind {arguments.pin_dir} into the daemon's mount namespace, as its unit does"
        print(f"fedge-bpf attach: warning: readers cannot pass {closed}; {cure}", file=sys.stderr)  # noqa: T201 - the output
    extra = {"cgroup": str(cgroup), "allowed": [str(a) for a in allow], "load_ms": load_ms}
    _report(programs, arguments, **extra, capabilities=capabilities.effective())
    return 0


def _detach(arguments: argparse.Namespace) -> int:
    removed = attaching.detach(arguments.pin_dir)
    print(json.dumps({"removed": removed}) if arguments.output == "json" else f"{removed} pins removed")  # noqa: T201 - the output
    return 0


def _status(arguments: argparse.Namespace) -> int:
    programs = attaching.status(arguments.pin_dir, arguments.cgroup)
    _report(programs, arguments)
    return 0 if enforced(programs) else EXIT_NOT_ENFORCED


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return {"attach": _attach, "detach": _detach, "status": _status}[arguments.command](arguments)
    except (KernelLayerError, OSError) as error:
        print(f"fedge-bpf {arguments.command}: {error}", file=sys.stderr)  # noqa: T201 - the output
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
