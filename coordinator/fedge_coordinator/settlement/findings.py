"""What an audit says: one finding a check, each with the path of what was checked."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Status(enum.StrEnum):
    """`unchecked` is no praise: the published files do not allow the check."""

    OK = "ok"
    FAIL = "fail"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: the file (and field) that was looked at, what was to hold, and what was found when it does not."""

    path: str
    check: str
    status: Status
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The findings over one job in the order of rounds, epochs, payments."""

    source: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed (some may be unchecked)."""
        return all(finding.status != Status.FAIL for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Whether every check could be made."""
        return all(finding.status != Status.UNCHECKED for finding in self.findings)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Only what failed."""
        return tuple(finding for finding in self.findings if finding.status == Status.FAIL)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The published files of a job, as bytes.

    Attributes:
        records: round to RoundRecord.
        weights: round to the model file after it; round 0 is the first model.
        epochs: epoch to EpochDocument.
        files: (round, name) to further evidence that the records name.
    """

    records: Mapping[int, bytes]
    weights: Mapping[int, bytes]
    epochs: Mapping[int, bytes]
    files: Mapping[tuple[int, str], bytes] = field(default_factory=dict)


class Findings:
    """Collects findings."""

    def __init__(self) -> None:
        self._list: list[Finding] = []

    def check(self, path: str, check: str, fault: str | None) -> bool:
        """Add a finding: good when there is no fault. Returns whether it is good."""
        status = Status.OK if fault is None else Status.FAIL
        self._list.append(Finding(path, check, status, fault or ""))
        return fault is None

    def equal(self, path: str, check: str, found: object, expected: object) -> bool:
        """Add a finding that two values are the same. Returns whether they are."""
        same = found == expected
        return self.check(path, check, None if same else f"found {_shown(found)}, expected {_shown(expected)}")

    def skip(self, path: str, check: str, reason: str) -> None:
        """Add a check that could not be made."""
        self._list.append(Finding(path, check, Status.UNCHECKED, reason))

    def report(self, source: str) -> AuditReport:
        """Return everything that was found."""
        return AuditReport(source, tuple(self._list))


def record_path(round_number: int) -> str:
    """Return where a round's record lies in a bundle."""
    return f"records/{round_number:06d}.json"


def weights_path(round_number: int) -> str:
    """Return where a round's weights lie in a bundle."""
    return f"weights/{round_number:06d}.f32"


def epoch_path(epoch: int) -> str:
    """Return where an epoch's document lies in a bundle."""
    return f"epochs/{epoch:06d}.json"


def evidence_path(round_number: int, name: str) -> str:
    """Return where a further file of a round lies in a bundle."""
    return f"evidence/{round_number:06d}/{name}"


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
