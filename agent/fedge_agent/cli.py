"""The command `fedge-agent`."""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

from fedge_agent import control
from fedge_agent.config import DEFAULT_PATH, EX_CONFIG, Config, ConfigError, load
from fedge_agent.state_owner import as_owner

EX_OK: Final = 0
EX_FAILED: Final = 1
EX_USAGE: Final = 2
EX_NOT_ENROLLED: Final = 3
EX_DEGRADED: Final = 4
EX_UNREACHABLE: Final = 5
EX_INTERRUPTED: Final = 130
_MIB: Final = 1024 * 1024
_SHORTEST_WINDOW_S: Final = 0.1
_LONGEST_WINDOW_S: Final = 3600.0
_LAST_PORT: Final = 65535

_EPILOG: Final = """examples:
  fedge-agent enroll fedge1.pGNmb28...   join a fleet with the token that its operator gave you
  fedge-agent status                     what the agent does now, and why
  fedge-agent status -o json             the same for programs
  fedge-agent config check               every fault of the configuration, with its file and line
  fedge-agent config show                every setting in force, and where it comes from
  fedge-agent doctor                     what is missing on this device, and the cure
  fedge-agent pause; fedge-agent resume  no training for now; training again
  fedge-agent telemetry                  what the kernel tells about this device, live
  fedge-agent outbox                     everything that ever left this device
  fedge-agent bugreport                  one archive for whoever helps you, without secrets
  fedge-agent infer rows.json            what the present model says of these rows
  fedge-agent leave                      leave the fleet; rewards can still be claimed afterwards
  fedge-agent rewards                    which rounds counted this device, and who is paid for them

exit status: 0 good, 1 failed, 2 usage, 3 not enrolled, 4 working but degraded, 5 no daemon answers,
             78 the configuration cannot be used, 130 interrupted"""

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
_Raw: Final = argparse.RawDescriptionHelpFormatter
_INFER_EPILOG: Final = """examples:
  echo '[[5.1, 3.5, 1.4, 0.2]]' | fedge-agent infer
  fedge-agent infer rows.csv -o json
  fedge-agent infer --model"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if "raw_command" in options:  # it reads the configuration itself, or does without
            return int(options.raw_command(options))
        config = load(options.config)
        with as_owner(config.state_dir) if "in_state_dir" in options else nullcontext():
            return int(options.command(config, options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except control.DaemonUnreachableError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_UNREACHABLE
    except OSError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_FAILED
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedge-agent",
        description="Trains models on this device's own data, without the data leaving it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=f"default: {DEFAULT_PATH}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the daemon (systemd does this)")
    run.set_defaults(command=_run)

    enroll = commands.add_parser("enroll", help="join a fleet")
    enroll.add_argument(
        "token", nargs="?", help="the token; when left out, the unit's credential or a line of standard input"
    )
    enroll.add_argument("--payout", metavar="0xADDRESS", help="address that is paid; by default the device's own")
    enroll.add_argument("--again", action="store_true", help="replace a present enrolment")
    _add_output(enroll)
    enroll.set_defaults(command=_enroll)

    status = commands.add_parser("status", help="what the agent does now")
    _add_output(status)
    status.add_argument("--json", dest="output", action="store_const", const="json", help="same as -o json")
    status.set_defaults(command=_status)

    configuration = commands.add_parser("config", help="the configuration: agent.toml, agent.d/*.toml, environment")
    actions = configuration.add_subparsers(required=True, metavar="ACTION")
    for name, text in (
        ("check", "read every layer as the daemon would; status 78 and each fault with its line"),
        ("show", "every setting in force, and where it comes from"),
    ):
        action = actions.add_parser(name, help=text)
        _add_output(action)
        action.set_defaults(raw_command=_config, action=name)

    doctor = commands.add_parser("doctor", help="check this device")
    _add_output(doctor)
    doctor.set_defaults(command=_doctor)

    telemetry = commands.add_parser("telemetry", help="what the kernel tells about this device, live")
    telemetry.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="length of a window (default 1)")
    telemetry.add_argument("--frames", type=int, metavar="N", help="stop after N windows; by default at Ctrl-C")
    telemetry.add_argument("--listen", type=int, metavar="PORT", help="serve /metrics for Prometheus on 127.0.0.1")
    _add_output(telemetry)
    telemetry.add_argument("--json", dest="output", action="store_const", const="json", help="one window as JSON")
    telemetry.set_defaults(command=_telemetry)

    for name, text in (("pause", "no training until `resume`"), ("resume", "training again")):
        owner = commands.add_parser(name, help=text)
        owner.set_defaults(command=_steer, order=name)

    bugreport = commands.add_parser("bugreport", help="one archive for whoever helps you, without secrets")
    bugreport.add_argument("--output", dest="file", type=Path, metavar="FILE", help="a new file [./fedge-bugreport-*]")
    _add_output(bugreport)
    bugreport.set_defaults(raw_command=_bugreport)

    _add_inference(commands)

    outbox = commands.add_parser("outbox", help="what left this device")
    outbox.add_argument("--last", type=int, default=50, metavar="N", help="the newest N messages (default 50)")
    _add_output(outbox)
    outbox.set_defaults(command=_outbox, in_state_dir=True)

    _add_leave(commands)

    rewards = commands.add_parser("rewards", help="which rounds counted this device, and who is paid for them")
    _add_output(rewards)
    rewards.set_defaults(command=_rewards, in_state_dir=True)
    return parser


def _add_inference(commands: _Commands) -> None:
    infer = commands.add_parser("infer", help="ask the present model", epilog=_INFER_EPILOG, formatter_class=_Raw)
    infer.add_argument("file", nargs="?", type=Path, help="rows of numbers: JSON or csv; by default standard input")
    infer.add_argument("--model", action="store_true", help="only say which model would answer")
    infer.add_argument("--job", metavar="NAME", help="of this job; by default of the one whose model landed last")
    infer.add_argument("--socket", type=Path, help="of the server; by default RUNTIME_DIR-inference.sock")
    _add_output(infer)
    infer.set_defaults(command=_infer)

    inference = commands.add_parser("inference", help="run the inference server (systemd does this)")
    inference.add_argument("--socket", type=Path, metavar="PATH", help="listen here when systemd hands over no socket")
    inference.set_defaults(command=_inference)


def _add_leave(commands: _Commands) -> None:
    leave = commands.add_parser("leave", help="leave the fleet: certificate revoked, membership and keys deleted")
    leave.add_argument(
        "--discard-rewards", action="store_true", help="delete chain.key too: unclaimed rewards are lost"
    )
    leave.add_argument(
        "--offline", action="store_true", help="do not tell the fleet: this is a copy of a device's disk"
    )
    leave.add_argument("--yes", action="store_true", help="do not ask")
    _add_output(leave)
    leave.set_defaults(command=_leave)  # as its own: what root accepted is forgotten as root


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")


def _run(config: Config, _: argparse.Namespace) -> int:
    from fedge_agent import run_command  # noqa: PLC0415 - only the daemon pays for the daemon's imports

    return run_command.run(config)


def _enroll(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import accepted_enrolment  # noqa: PLC0415 - a short-lived command of its own
    from fedge_agent.identity.enroll import enroll  # noqa: PLC0415 - a short-lived command of its own
    from fedge_agent.identity.errors import IdentityError  # noqa: PLC0415
    from fedge_agent.network_path import NetworkPath  # noqa: PLC0415
    from fedge_agent.waiting import LEAVING  # noqa: PLC0415

    if (config.state_dir / LEAVING).exists():
        print("fedge-agent: leaving a fleet is under way; fedge-agent leave, given again, finishes it", file=sys.stderr)
        return EX_FAILED
    token = options.token or _given_token() or sys.stdin.readline().strip()
    payout = _address(options.payout) if options.payout else None
    if options.payout and payout is None:
        print(f"fedge-agent: --payout {options.payout}: 0x and 40 hexadecimal digits are needed", file=sys.stderr)
        return EX_USAGE
    try:
        with as_owner(config.state_dir):
            found = enroll(token, config.state_dir, payout, again=options.again, way=NetworkPath.of_command(config))
        accepted_enrolment.replace(Path(config.kernel.pin_dir), (found.record.url, found.broker_url))
    except IdentityError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_FAILED
    answer = {
        "device": found.device_id,
        "fleet": found.fleet,
        "broker": found.broker_url,
        "chain_address": "0x" + found.device.chain_address.hex(),
    }
    _print(answer, options.output, f"enrolled as {found.device_id} in fleet {found.fleet}")
    return EX_OK


def _given_token() -> str:
    """The token that the service manager handed over (`fedge-enroll.service`), or nothing."""
    from fedge_agent.identity import credentials  # noqa: PLC0415 - as above

    path = credentials.given(credentials.TOKEN)
    return "" if path is None else path.read_text(encoding="ascii", errors="replace").strip()


def _status(config: Config, options: argparse.Namespace) -> int:
    found = control.ask(config.control_socket, "status")
    text = [f"{found['device']} of fleet {found['fleet']}: {found['status']}"]
    admission, network = found["admission"], found["network_admission"]
    text.append(f"  training admission: {admission['state']} ({admission['text']})")
    text.append(f"  network admission:  {'enforced by the kernel' if network['enforced'] else 'not enforced'}")
    if "way_out" in found:  # an older daemon may still run after an upgrade
        text.append(f"  way out:            {_way_out(found['way_out'])}")
    text.append(f"  prekeys: {found['prekeys']}; rounds: {_counts(found['outcomes'])}")
    text += [f"  warning: {warning}" for warning in found["warnings"]]
    _print(found, options.output, "\n".join(text))
    return EX_OK if found["connected"] and not found["warnings"] else EX_DEGRADED


def _way_out(told: dict[str, Any]) -> str:
    proxy = f" through the proxy {told['proxy']}" if told["proxy"] else ""
    left = told["budget_left_bytes"]
    budget = "" if left is None else f"; {left / _MIB:.1f} MiB are left today, counted by the agent"
    return f"{told['broker']}{proxy}, addresses from {told['addresses_from']}{budget}"


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(outcomes.items())) or "none yet"


def _config(options: argparse.Namespace) -> int:
    from fedge_agent import config_command  # noqa: PLC0415 - a short-lived command of its own

    return config_command.check(options) if options.action == "check" else config_command.show(options)


def _bugreport(options: argparse.Namespace) -> int:
    from fedge_agent import bugreport_command  # noqa: PLC0415 - a short-lived command of its own

    return bugreport_command.report(options)


def _doctor(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import diagnosis  # noqa: PLC0415 - a short-lived command of its own

    checks = diagnosis.run_all(config)
    rows = [
        {"name": check.name, "grade": check.grade.value, "detail": check.detail, "cure": check.cure} for check in checks
    ]
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.grade.value:4}  {check.name:{width}}  {check.detail}")
        if check.cure:
            lines.append(f"      {'':{width}}  cure: {check.cure}")
    _print({"checks": rows}, options.output, "\n".join(lines))
    grades = {check.grade.value for check in checks}
    return EX_FAILED if "fail" in grades else EX_DEGRADED if "warn" in grades else EX_OK


def _decided(config: Config) -> dict[str, Any] | None:
    """What the daemon says of training admission; None where none answers."""
    try:
        found: dict[str, Any] = control.ask(config.control_socket, "status")["admission"]
    except (control.DaemonUnreachableError, PermissionError, KeyError):
        return None
    return found


def _telemetry(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import telemetry_view  # noqa: PLC0415 - a short-lived command of its own

    if not _SHORTEST_WINDOW_S <= options.every <= _LONGEST_WINDOW_S:
        print(f"fedge-agent: --every {options.every}: 0.1 to 3600 s is accepted", file=sys.stderr)
        return EX_USAGE
    if options.listen is not None and not 0 <= options.listen <= _LAST_PORT:
        print(f"fedge-agent: --listen {options.listen}: a port of 0 to 65535 is accepted", file=sys.stderr)
        return EX_USAGE
    view = telemetry_view.TelemetryView(config.kernel)
    try:
        if options.listen is not None:
            from fedge_agent import telemetry_metrics  # noqa: PLC0415 - asked for by few

            with telemetry_metrics.server(view, options.listen, lambda: _decided(config)) as server:
                print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
                server.serve_forever()
        elif options.output == "json":
            time.sleep(options.every)
            print(json.dumps(view.window(), indent=2))
        else:
            telemetry_view.show(view, every_s=options.every, frames=options.frames)
    finally:
        view.close()
    return EX_OK


def _steer(config: Config, options: argparse.Namespace) -> int:
    print(control.ask(config.control_socket, options.order)["admission"])
    return EX_OK


def _outbox(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent.store import DeviceStore, StoreUnusableError  # noqa: PLC0415 - a short-lived command of its own

    path = config.state_dir / "state.db"
    if not path.exists():
        print(f"fedge-agent: no {path}: nothing has left this device", file=sys.stderr)
        return EX_NOT_ENROLLED
    try:
        store = DeviceStore(path, lambda: 0)
    except StoreUnusableError as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_FAILED
    try:
        rows = [
            {
                "at_ms": signed.at_ms,
                "job": signed.job,
                "round": signed.round,
                "kind": signed.kind,
                "bytes": len(signed.message),
                "acknowledged": signed.acknowledged,
            }
            for signed in store.outbox(options.last)
        ]
    finally:
        store.close()
    lines = [
        f"{row['at_ms']}  {row['job'] or '-'}  round {row['round']}  {row['kind']}  {row['bytes']} bytes"
        f"  {'acknowledged' if row['acknowledged'] else 'waiting'}"
        for row in rows
    ]
    _print({"messages": rows}, options.output, "\n".join(lines) or "nothing yet")
    return EX_OK


def _infer(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import infer_command  # noqa: PLC0415 - a short-lived command of its own

    return infer_command.infer(config, options)


def _inference(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import inference_command  # noqa: PLC0415 - a process of its own

    return inference_command.serve(config, options)


def _leave(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import accepted_enrolment, leave_command  # noqa: PLC0415 - a short-lived command of its own

    with as_owner(config.state_dir):
        status = leave_command.leave_fleet(config, options)
    if status == EX_OK:
        accepted_enrolment.forget(Path(config.kernel.pin_dir))
    return status


def _rewards(config: Config, options: argparse.Namespace) -> int:
    from fedge_agent import rewards  # noqa: PLC0415 - a short-lived command of its own
    from fedge_agent.identity.errors import IdentityError, NotEnrolledError  # noqa: PLC0415
    from fedge_agent.store import StoreUnusableError  # noqa: PLC0415

    try:
        found = rewards.rewards_of(config.state_dir)
    except (IdentityError, StoreUnusableError) as error:
        print(f"fedge-agent: {error}", file=sys.stderr)
        return EX_NOT_ENROLLED if isinstance(error, NotEnrolledError) else EX_FAILED
    _print(found.plain(), options.output, found.text())
    return EX_OK


def _print(found: dict[str, Any], output: str, text: str) -> None:
    print(json.dumps(found, indent=2, sort_keys=True) if output == "json" else text)


def _address(text: str) -> bytes | None:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return None
    return value if text.startswith("0x") and len(value) == 20 else None  # noqa: PLR2004 - an address's length
