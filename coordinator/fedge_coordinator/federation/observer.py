"""What the running coordinator tells about itself, without knowing who listens: metrics, the event stream, the log."""

from dataclasses import dataclass, field
from typing import Protocol

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Event:
    """Something people and dashboards want to know. `name` is one of the names in `docs/operations.md`."""

    name: str
    at_ms: int
    fields: dict[str, Value] = field(default_factory=dict)


class Observer(Protocol):
    """Told of events and refusals; must not fail and must not wait."""

    def happened(self, event: Event) -> None:
        """Something happened."""
        ...

    def refused(self, kind: str, reason: str) -> None:
        """A message was refused."""
        ...

    def received(self, kind: str, size: int) -> None:
        """A message of `size` bytes arrived, valid or not."""
        ...
