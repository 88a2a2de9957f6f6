"""`fedge-bpf attach|refresh|save|detach|status`: the short-lived privileged program of the kernel layer.

Exit status: 0 done; 1 refused, the message names the cure; 2 wrong usage; 3 `status` found network admission
not enforced; 75 a name cannot be resolved now, try again; 78 the configuration cannot be used. In the last two cases
the policy that was in force stays in force.

Options, configuration and names are read in a child (`apart`), so that this process, which loads, stays small: it
imports no argparse, dataclasses, pathlib, re or typing.
"""

import sys
from collections.abc import Sequence

from fedge_agent.kernel.apart import ChildFailedError, apart
from fedge_agent.kernel.orders import EXIT_REFUSED, Order


def _read(argv: Sequence[str]) -> tuple[object, ...]:
    from fedge_agent.kernel import capabilities, command_line  # noqa: PLC0415 - in the child alone

    # Name servers and the daemon's own files are read here: what they could take over may read files, no more.
    capabilities.keep_only((capabilities.Capability.DAC_READ_SEARCH,))
    return command_line.read(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    try:
        order = Order.of(apart(_read, list(sys.argv[1:] if argv is None else argv)))
    except (ChildFailedError, TypeError) as error:
        print(f"fedge-bpf: {error}", file=sys.stderr)  # noqa: T201 - the output
        return EXIT_REFUSED
    if order.status is not None:
        return order.status
    return _carry_out(order)


def _carry_out(order: Order) -> int:
    from fedge_agent.kernel import execution  # noqa: PLC0415 - after the fork: the child needs none of it

    return execution.carry_out(order)


if __name__ == "__main__":
    sys.exit(main())
