"""What the daemon tells about itself: for `fedge-agent status`, for systemd's STATUS line, for the demo."""

import time
from collections.abc import Callable
from typing import Any

from fedge_agent.admission.controller import AdmissionController
from fedge_agent.federation.client import FederationClient
from fedge_agent.kernel_layer import KernelLayer
from fedge_agent.status_line import RoundNow, Situation, status_line
from fedge_agent.store import DeviceStore
from fedge_protocol.secagg.params import SECURE_FLOOR

_SHOWN_ROUNDS = 10


class StatusBoard:
    """Reads the parts; owns nothing."""

    def __init__(
        self,
        fleet: str,
        device: str,
        client: FederationClient,
        admission: AdmissionController,
        kernel: KernelLayer,
        store: DeviceStore,
        *,
        trouble: Callable[[], str | None] = lambda: None,
        way_out: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._fleet = fleet
        self._device = device
        self._client = client
        self._admission = admission
        self._kernel = kernel
        self._store = store
        self._trouble = trouble
        self._way_out = way_out
        self._started = time.monotonic()

    def line(self) -> str:
        """State, round and reason in one line."""
        mark = self._client.sessions.mark
        return status_line(
            Situation(
                admission=self._admission.decision,
                duplicate="" if mark is None else mark.line,
                connected=self._client.connected,
                trouble=("" if self._client.connected else self._trouble()) or "",
                confirmed=self._client.sessions.confirmed,
                round=self._round_now(),
                waiting_for=self._client.waiting_for,
            )
        )

    def _round_now(self) -> RoundNow | None:
        driver = self._client.round
        if driver is None:
            return None
        offer, ended = driver.offer, driver.outcome
        return RoundNow(
            offer.job,
            offer.round,
            driver.machine.state,
            epoch=0 if driver.progress is None else driver.progress.epoch,
            epochs=offer.training.epochs,
            outcome="" if ended is None else ended.outcome,
            detail="" if ended is None else ended.detail,
        )

    def full(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        decision = self._admission.decision
        return {
            "device": self._device,
            "fleet": self._fleet,
            "status": self.line(),
            "connected": self._client.connected,
            "duplicate": self._duplicate(),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "round": self._round(),
            "admission": {
                "state": decision.state.value,
                "reason": decision.reason.value,
                "text": decision.text,
                "decisions": {f"{state}/{reason}": n for (state, reason), n in self._admission.counts.items()},
            },
            "network_admission": {
                "enforced": self._kernel.network.enforced,
                "detail": self._kernel.network.detail,
                "counters": self._kernel.counters(),
            },
            "way_out": self._way_out(),
            "prekeys": self._store.published_count(),
            "outcomes": self._store.outcomes(),
            "rounds": [
                {"job": r.job, "round": r.round, "outcome": r.outcome, "detail": r.detail, "bytes_up": r.bytes_up}
                for r in self._store.rounds(_SHOWN_ROUNDS)
            ],
            "refused_messages": {f"{kind}/{reason}": n for (kind, reason), n in self._client.refused.items()},
            "warnings": self._warnings(),
        }

    def _duplicate(self) -> dict[str, Any] | None:
        mark = self._client.sessions.mark
        if mark is None:
            return None
        why = mark.duplicate
        return {"reason": str(why), "since_ms": mark.since_ms, "text": why.text, "cure": why.cure}

    def _round(self) -> dict[str, Any] | None:
        driver = self._client.round
        if driver is None:
            return None
        offer = driver.offer
        return {
            "job": offer.job,
            "round": offer.round,
            "attempt": offer.attempt,
            "state": str(driver.machine.state),
            "epoch": driver.progress.epoch if driver.progress is not None else 0,
            "epochs": offer.training.epochs,
            "outcome": driver.outcome.outcome if driver.outcome is not None else None,
        }

    def _warnings(self) -> list[str]:
        found = []
        if (mark := self._client.sessions.mark) is not None:
            found.append(mark.line)
        driver = self._client.round
        if driver is not None and driver.offer.cohort.minimum < SECURE_FLOOR:
            minimum = driver.offer.cohort.minimum
            found.append(f"job {driver.offer.job}: a cohort of {minimum} is below the secure floor of {SECURE_FLOOR}")
        if not self._kernel.network.enforced:
            found.append(f"network admission is not enforced: {self._kernel.network.detail}")
        return found
