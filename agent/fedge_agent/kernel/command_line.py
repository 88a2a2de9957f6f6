"""The command line of `fedge-bpf`, read with all that it names: the part that may cost memory, for it loads nothing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedge_agent.kernel import budget_file, places, policy_change
from fedge_agent.kernel.errors import KernelLayerError, PolicyError, ResolverError
from fedge_agent.kernel.orders import EXIT_CONFIG, EXIT_REFUSED, EXIT_TRY_AGAIN, Order
from fedge_agent.kernel.programs import Compiler


class _Parser(argparse.ArgumentParser):
    """One that does not ask shutil how wide the terminal is: half a megabyte of compression libraries would follow."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(self.prog, width=100)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fedge-bpf", description="Puts Fedge's kernel programs in place. Mounts nothing.")
    common = _Parser(add_help=False)
    common.add_argument("-o", "--output", choices=("text", "json"), default="text")
    common.add_argument("--config", type=Path, help="agent.toml; options given here come before it")
    common.add_argument("--pin-dir", type=Path, help=f"on a BPF file system [{places.DEFAULT_PIN_DIR}]")
    common.add_argument(
        "--budget-file", type=Path, help=f"the day's bytes [{budget_file.DEFAULT_DIRECTORY}/NAME.budget]"
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
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


def read(argv: Sequence[str]) -> tuple[object, ...]:
    """The fields of the `Order` that `argv` means; what is wrong with it is told on standard error."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as error:  # help, or wrong usage
        return Order(status=int(error.code or 0)).fields()
    try:
        return policy_change.order_for(arguments).fields()
    except PolicyError as error:
        status = _tell(arguments.command, error, EXIT_CONFIG)
        if arguments.command == "attach" and arguments.enrolment is not None:
            return policy_change.nothing_allowed(arguments).fields()
    except ResolverError as error:
        status = _tell(arguments.command, error, EXIT_TRY_AGAIN)
    except (KernelLayerError, OSError) as error:
        status = _tell(arguments.command, error, EXIT_REFUSED)
    return Order(status=status).fields()


def _tell(command: str, error: Exception, status: int) -> int:
    print(f"fedge-bpf {command}: {error}", file=sys.stderr)  # noqa: T201 - the output
    return status
