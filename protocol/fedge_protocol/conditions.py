"""Where a device's training admission stands, and why: the words that device, coordinator and operator share.

A closed list, so that it can label a metric and a forged or future word is refused.
"""

from enum import StrEnum


class ConditionState(StrEnum):
    """May the device train?"""

    IDLE = "idle"
    ADMITTED = "admitted"
    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"


class ConditionReason(StrEnum):
    """Why that is so; `fedge-agent status` shows it and the coordinator learns it."""

    NO_JOB = "no-job"
    SETTLING = "settling"  # quiet, but not yet for long enough
    QUIET = "quiet"
    STARTED = "started"
    PROTECTED = "protected"  # READY is sent: not paused until the round ends
    RUN_QUEUE = "run-queue"
    CPU_PRESSURE = "cpu-pressure"
    MEMORY_PRESSURE = "memory-pressure"
    IO_PRESSURE = "io-pressure"
    TEMPERATURE = "temperature"
    ON_BATTERY = "on-battery"
    BATTERY_LOW = "battery-low"
    OWNER = "owner"  # fedge-agent pause
    QUIET_HOURS = "quiet-hours"
    DISK = "disk"
    CPU_BUDGET = "cpu-budget"
    BYTES_BUDGET = "bytes-budget"
    ROUNDS_BUDGET = "rounds-budget"
    METERED = "metered"
    WIRELESS = "wireless"
    LINK_UNKNOWN = "link-unknown"
    SIGNALS_MISSING = "signals-missing"
    DEADLINE = "deadline"
