"""The coordinator's API as `fedgectl` uses it: typed answers, and errors with cause and cure."""

import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from fedge_coordinator.api.problem import MEDIA_TYPE, Problem, ProblemKind
from fedge_coordinator.api.views import (
    AppliedView,
    CheckpointView,
    DeviceView,
    Event,
    JobView,
    RewardView,
    RoundView,
)
from fedge_coordinator.cli.failures import CommandError, ExitCode
from fedge_protocol.jobspec import TrainingJob, canonical

ANSWER_TIMEOUT_S: Final = 30.0
SILENCE_TIMEOUT_S: Final = 60.0
WATCHING: Final = ": watching"
_T = TypeVar("_T")


class ApiClient:
    """One connection to a coordinator. A `with` block closes it. Every call may raise `CommandError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        probe_socket(path, "coordinator", "systemctl start fedge-coordinator")
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://coordinator", timeout=ANSWER_TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def apply(self, job: TrainingJob, *, dry_run: bool) -> AppliedView:
        """Put a document in force, or ask what that would do."""
        path = f"/v1/jobs/{quote(job.metadata.name, safe='')}"
        return self._ask("PUT", path, AppliedView, content=canonical(job), params={"dryRun": str(dry_run).lower()})

    def jobs(self) -> list[JobView]:
        """All jobs."""
        return self._ask("GET", "/v1/jobs", list[JobView])

    def job(self, name: str) -> JobView:
        """One job."""
        return self._ask("GET", f"/v1/jobs/{quote(name, safe='')}", JobView)

    def steer(self, name: str, action: str) -> JobView:
        """`pause`, `resume` or `cancel` a job."""
        return self._ask("POST", f"/v1/jobs/{quote(name, safe='')}/{action}", JobView)

    def rounds(self, job: str | None = None) -> list[RoundView]:
        """Rounds of one job, or of all."""
        return self._ask("GET", "/v1/rounds", list[RoundView], params=_of(job))

    def devices(self) -> list[DeviceView]:
        """All devices."""
        return self._ask("GET", "/v1/devices", list[DeviceView])

    def accept_device(self, device: str) -> DeviceView:
        """Let a device speak again that was found to be a duplicate."""
        return self._ask("POST", f"/v1/devices/{quote(device, safe='')}/accept", DeviceView)

    def checkpoints(self, job: str | None = None) -> list[CheckpointView]:
        """Checkpoints of one job, or of all."""
        return self._ask("GET", "/v1/checkpoints", list[CheckpointView], params=_of(job))

    def rewards(self, job: str | None = None) -> list[RewardView]:
        """Rewards of one job, or of all."""
        return self._ask("GET", "/v1/rewards", list[RewardView], params=_of(job))

    def ledger(self) -> list[bytes]:
        """All lines of the local ledger; none when settlement goes to a chain."""
        return self._request("GET", "/v1/ledger").content.splitlines()

    def events(self, ready: Callable[[], None]) -> Iterator[Event]:
        """What happens from now on; ends when the coordinator stops. `ready` is called once nothing can be missed."""
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, read=SILENCE_TIMEOUT_S)
        try:
            with self._client.stream("GET", "/v1/events", timeout=timeout) as stream:
                if stream.status_code != HTTPStatus.OK:
                    stream.read()
                    raise _refused(stream)
                for line in stream.iter_lines():
                    if line == WATCHING:
                        ready()
                    if line.startswith("data: "):
                        yield msgspec.json.decode(line.removeprefix("data: "), type=Event)
        except httpx.TransportError as error:
            raise self._lost(error) from error

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        content: bytes | None = None,
        params: dict[str, str] | None = None,
    ) -> _T:
        response = self._request(method, path, content=content, params=params)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandError(
                ExitCode.FAILED, f"the coordinator's answer is not understood: {error}", "use its version of fedgectl"
            ) from error

    def _request(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = self._client.request(method, path, content=content, params=params)
        except httpx.TransportError as error:
            raise self._lost(error) from error
        if response.status_code != HTTPStatus.OK:
            raise _refused(response)
        return response

    def _lost(self, error: httpx.TransportError) -> CommandError:
        return CommandError(
            ExitCode.UNREACHABLE,
            f"the coordinator at {self._path} does not answer: {error or type(error).__name__}",
            "see its log: journalctl -u fedge-coordinator",
        )


def probe_socket(path: Path, who: str, start: str) -> None:
    """Tell why a socket cannot be opened, more exactly than an HTTP client does.

    Raises:
        CommandError: nobody listens there, or the caller may not connect.
    """
    cause = cure = ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            cause, cure = f"{path} does not exist: no {who} runs here", f"{start}, or name its socket"
        except ConnectionRefusedError:
            cause, cure = f"{path} is there, but no {who} listens: it was killed or is starting", start
        except PermissionError:
            cause, cure = f"you may not open {path}", f"run as root or as the user of the {who}: sudo fedgectl ..."
        except OSError as error:
            cause, cure = f"cannot connect to {path}: {error.strerror or error}", "check the path"
    if cause:
        raise CommandError(ExitCode.UNREACHABLE, cause, cure)


def _of(job: str | None) -> dict[str, str]:
    return {} if job is None else {"job": job}


def _refused(response: httpx.Response) -> CommandError:
    if not response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return CommandError(
            ExitCode.FAILED, f"HTTP {response.status_code} without a reason", "is that socket a coordinator's?"
        )
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError as error:
        return CommandError(ExitCode.FAILED, f"HTTP {response.status_code}: {error}", "use its version of fedgectl")
    codes = {
        ProblemKind.NOT_FOUND: ExitCode.NOT_FOUND,
        ProblemKind.UNAVAILABLE: ExitCode.FAILED,
        ProblemKind.INTERNAL: ExitCode.FAILED,
    }
    lines = tuple(f"{fault.path}: {fault.message}" for fault in problem.faults)
    return CommandError(codes.get(ProblemKind(problem.kind), ExitCode.REFUSED), problem.detail, problem.cure, lines)
