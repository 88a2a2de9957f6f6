"""The errors of the protocol: each names what was refused, and why."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a message was refused. Goes on the wire, into metrics and into `status`."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_DEVICE = "unknown-device"
    REVOKED = "revoked"
    WRONG_TOPIC = "wrong-topic"
    WRONG_FLEET = "wrong-fleet"
    WRONG_JOB = "wrong-job"
    WRONG_ROUND = "wrong-round"
    WRONG_CONTEXT = "wrong-context"
    OUT_OF_PHASE = "out-of-phase"
    NOT_IN_COHORT = "not-in-cohort"
    COHORT_FULL = "cohort-full"
    EQUIVOCATION = "equivocation"
    UNKNOWN_PREKEY = "unknown-prekey"
    USED_PREKEY = "used-prekey"
    BAD_SHARE = "bad-share"
    BAD_UPDATE = "bad-update"
    BAD_WEIGHT = "bad-weight"
    BAD_RECEIPT = "bad-receipt"
    BELOW_THRESHOLD = "below-threshold"
    UNSUPPORTED = "unsupported"
    COHORT_TOO_SMALL = "cohort-too-small"
    UNTRUSTED = "untrusted"
    NO_SUCH_SOURCE = "no-such-source"
    NOT_ADMITTED = "not-admitted"
    TRAINING_FAILED = "training-failed"
    MISSING_BLOB = "missing-blob"
    DUPLICATE_IDENTITY = "duplicate-identity"


class ProtocolError(Exception):
    """The family of everything `fedge_protocol` raises."""


class RefusedError(ProtocolError):
    """A message is refused; nothing was changed by it.

    Args:
        reason: the name that goes into metrics, logs and the answer.
        detail: what was wrong, with the value at fault; no secret.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
