"""`fedge-agent doctor`: every check there is, in the order to cure them."""

import time
from pathlib import Path

from fedge_agent.config import Config
from fedge_agent.identity import record
from fedge_agent.identity.errors import IdentityError
from fedge_agent.kernel.doctor import Check, Grade, run_checks
from fedge_agent.kernel.errors import PolicyError
from fedge_agent.kernel.link import LinkError, default_routes, describe
from fedge_agent.kernel.policy_file import read_config
from fedge_agent.model_slot import slots
from fedge_agent.session_record import mark_in
from fedge_agent.waiting import LEAVING
from fedge_agent.way_out_check import check_way_out

_DAY_S = 86_400


def run_all(config: Config) -> tuple[Check, ...]:
    """Configuration, enrolment, data sources, then the kernel."""
    return (
        check_configuration(config),
        _enrolment(config),
        _identity(config),
        *(_source(name, Path(source.path)) for name, source in sorted(config.sources.items())),
        *run_checks(Path(config.kernel.pin_dir)),
        _link(),
        check_way_out(config),
        check_inference(config),
    )


def check_configuration(config: Config) -> Check:
    """The layers, and whether the loader, which runs as root, believes the same files."""
    layers = ", ".join(layer.source for layer in config.layers) or f"no {config.path}: all defaults"
    if config.kernel.network != "off":
        try:
            read_config(config.path)
        except PolicyError as error:
            return Check("configuration", Grade.FAIL, str(error), "mend that; then fedge-agent config check")
    return Check("configuration", Grade.OK, layers)


def check_inference(config: Config) -> Check:
    """Whether programs on this device can ask the present model."""
    if not config.inference_socket.is_socket():
        detail = f"nobody listens at {config.inference_socket}"
        return Check("inference", Grade.OK, f"off: {detail} (systemctl start fedge-inference.socket)")
    models = slots(config.model_dir)
    held = ", ".join(f"{slot.job} round {slot.round}" for slot in models) or "no model has landed yet"
    return Check("inference", Grade.OK, f"{config.inference_socket}: {held}")


def _enrolment(config: Config) -> Check:
    if (config.state_dir / LEAVING).exists():
        return Check("enrolment", Grade.FAIL, "leaving the fleet was begun and not finished", "fedge-agent leave")
    try:
        found = record.look(config.state_dir)
    except IdentityError as error:
        return Check("enrolment", Grade.FAIL, str(error), "fedge-agent enroll TOKEN")
    left_s = found.device.not_after - time.time()
    detail = f"{found.device_id} of fleet {found.fleet}, certificate for {left_s / _DAY_S:.1f} more days"
    if left_s <= 0:
        return Check("enrolment", Grade.FAIL, detail, "fedge-agent enroll --again TOKEN")
    return Check("enrolment", Grade.OK, detail)


def _identity(config: Config) -> Check:
    mark = mark_in(config.state_dir / "state.db")
    if mark is None:
        return Check("identity", Grade.OK, "not known to be on another disk")
    return Check("identity", Grade.FAIL, f"duplicate identity: {mark.duplicate.text}", mark.duplicate.cure)


def _link() -> Check:
    try:
        routes = default_routes()
    except LinkError as error:
        return Check("link", Grade.WARN, str(error), "apt install --reinstall fedge-agent")
    if not routes:
        return Check("link", Grade.WARN, "no default route", "connect this device to a network")
    return Check("link", Grade.OK, describe(routes))


def _source(name: str, path: Path) -> Check:
    label = f"source {name}"
    try:
        present = path.is_file() or any(path.iterdir())
    except OSError as error:
        return Check(label, Grade.FAIL, str(error), f"put data at {path}, or change [sources.{name}]")
    if not present:
        return Check(label, Grade.WARN, f"{path} is empty", f"put data at {path}")
    return Check(label, Grade.OK, str(path))
