"""What `fedge-bpf` does in the kernel, once everything is read: the part that holds privileges and stays small."""

import os
import sys
import time
from collections.abc import Sequence

from fedge_agent.kernel import attach as attaching
from fedge_agent.kernel import budget, budget_file, capabilities, libbpf, network_policy
from fedge_agent.kernel.attach import ProgramStatus, Request, State
from fedge_agent.kernel.builds import Sources
from fedge_agent.kernel.capabilities import Capability
from fedge_agent.kernel.errors import KernelLayerError
from fedge_agent.kernel.network_policy import NetworkPolicy
from fedge_agent.kernel.orders import EXIT_NOT_ENFORCED, EXIT_REFUSED, Order
from fedge_agent.kernel.policy_records import Budget
from fedge_agent.kernel.programs import Compiler, Feature, ObjectName, programs_of
from fedge_agent.kernel.text_files import publish_text


def carry_out(order: Order) -> int:
    """Does it, and says what came of it; returns the exit status."""
    try:
        for text in order.warnings:
            _warn(order, text)
        return _COMMANDS[order.command](order)
    except (KernelLayerError, OSError) as error:
        print(f"fedge-bpf {order.command}: {error}", file=sys.stderr)  # noqa: T201 - the output
        return EXIT_REFUSED


def enforced(programs: Sequence[ProgramStatus]) -> bool:
    """Whether every program of network admission is attached."""
    wanted = [p for p in programs if p.program.feature is Feature.NETWORK_ADMISSION]
    return bool(wanted) and all(p.state is State.ATTACHED for p in wanted)


def _attach(order: Order) -> int:
    sources = Sources(order.object_dir, order.pin_dir, Compiler(order.compiler))
    begin_s = time.perf_counter()
    with attaching.open_events() as events:
        capabilities.keep_only(Capability)
        prior = None if order.saved is None else Budget(*order.saved)
        request = Request(
            sources, order.cgroup or "", _policy(order), prior, budget_file.today(), events, reader_gid=order.reader_gid
        )
        programs = _attach_as(order, request)
    load_ms = round((time.perf_counter() - begin_s) * 1000, 1)
    capabilities.keep_only(())
    if order.guarded and enforced(programs):
        _publish(order)
    # the unit binds the pins into its own mount namespace, where nothing is in the way
    if order.reader_gid is not None and not order.daemon_binds:
        closed = attaching.closed_parent(order.pin_dir)
        cure = f"chmod o+x {closed}, or bind {order.pin_dir} into the daemon's mount namespace, as its unit does"
        if closed is not None:
            _warn(order, f"readers cannot pass {closed}; {cure}")
    extra = {"cgroup": order.cgroup, "mode": order.mode, "allowed": order.allowed, "load_ms": load_ms}
    _report(order, programs, **extra, capabilities=capabilities.effective())
    return 0


def _attach_as(order: Order, request: Request) -> tuple[ProgramStatus, ...]:
    """Attaches; where the kernel cannot enforce, `require` raises, `prefer` and `audit` go on without.

    Raises:
        KernelLayerError: network admission is required and cannot be.
    """
    try:
        return attaching.attach(request)
    except (KernelLayerError, OSError) as error:
        if order.mode == "require":
            raise
        reason = str(error).splitlines()[-1]
        alone = "the agent is held to its allow-list and budget by itself alone"
        _warn(order, f"network admission is off ({reason}): {alone}")
        admission = tuple(ProgramStatus(p, State.ABSENT, reason) for p in programs_of(ObjectName.ADMISSION))
        telemetry = tuple(ProgramStatus(p, State.ABSENT, reason) for p in programs_of(ObjectName.TELEMETRY))
        return (*admission, *(attaching.attach_telemetry(request) if _own(order.pin_dir) else telemetry))


def _own(pin_dir: str) -> bool:
    try:
        attaching.require_own(pin_dir)
    except (KernelLayerError, OSError):
        return False
    return True


def _policy(order: Order) -> NetworkPolicy | None:
    if not order.guarded:
        return None
    return NetworkPolicy(order.allow, order.rate_bytes_per_s, order.mode == "audit", order.limit_bytes)


def _publish(order: Order) -> None:
    """Tells the daemon where it may connect, once the kernel allows it; what is in force does not hang on it."""
    if order.publish is None:
        return
    path, text = order.publish
    try:
        publish_text(path, text)
    except OSError as error:
        _warn(order, f"{path} cannot be written ({error.strerror}); its directory must be root's")


def _refresh(order: Order) -> int:
    capabilities.keep_only(Capability)
    _put_in_force(order)
    _publish(order)
    budget.save(order.pin_dir, order.budget_file, budget_file.today())
    _print(order, {"allowed": order.allowed}, f"{len(order.allowed)} entries are allowed")
    return 0


def _put_in_force(order: Order) -> None:
    """Changes the policy of programs that are attached.

    Raises:
        KernelLayerError: they are not.
    """
    policy = _policy(order)
    if policy is None:
        raise KernelLayerError('kernel.network = "off": there is no policy to refresh')
    known = budget.read_kernel(order.pin_dir)
    if known is None:
        raise KernelLayerError(f"no programs are attached at {order.pin_dir}; run fedge-bpf attach")
    opened: dict[str, int] = {}

    def map_fd(name: str) -> int:
        if name not in opened:
            opened[name] = libbpf.open_pin(os.path.join(order.pin_dir, name))
        return opened[name]

    try:
        saved = None if order.saved is None else Budget(*order.saved)
        # what nothing counts says nothing: the file does, or a policy without a budget between two would fill it up
        prior = known[1] if known[1].limit_bytes else saved
        network_policy.put(policy, map_fd, prior, budget_file.today())
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _save(order: Order) -> int:
    saved = budget.save(order.pin_dir, order.budget_file, budget_file.today())
    if saved is None:
        _print(order, {"budget": None}, "no budget is counted")
        return 0
    record = {"left_bytes": saved.left_bytes, "limit_bytes": saved.limit_bytes, "day": saved.day}
    _print(order, {"budget": record}, f"{saved.left_bytes} of {saved.limit_bytes} bytes are left today")
    return 0


def _detach(order: Order) -> int:
    budget.save(order.pin_dir, order.budget_file, budget_file.today())
    removed = attaching.detach(order.pin_dir)
    _print(order, {"removed": removed}, f"{removed} pins removed")
    return 0


def _status(order: Order) -> int:
    programs = attaching.status(order.pin_dir, order.cgroup)
    found = budget.read_kernel(order.pin_dir)
    extra: dict[str, object] = {}
    if found is not None:
        rule, left = found
        extra = {
            "audit": rule.audit,
            "rate_bytes_per_s": rule.rate_bytes_per_s or None,
            "budget": {"left_bytes": left.left_bytes, "limit_bytes": left.limit_bytes} if left.limit_bytes else None,
        }
    _report(order, programs, **extra)
    return 0 if enforced(programs) else EXIT_NOT_ENFORCED


def _print(order: Order, record: dict[str, object], text: str) -> None:
    if order.as_json:
        import json  # noqa: PLC0415 - 350 kB, for this alone

        text = json.dumps(record)
    print(text)  # noqa: T201 - the output


def _warn(order: Order, text: str) -> None:
    print(f"fedge-bpf {order.command}: warning: {text}", file=sys.stderr)  # noqa: T201 - the output


def _report(order: Order, programs: Sequence[ProgramStatus], **extra: object) -> None:
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
    if "load_ms" in extra:
        lines.append(f"in force after {extra['load_ms']} ms")
    record = {"pin_dir": order.pin_dir, "admission_enforced": enforced(programs), "programs": rows, **extra}
    _print(order, record, "\n".join(lines))


_COMMANDS = {"attach": _attach, "refresh": _refresh, "save": _save, "detach": _detach, "status": _status}
