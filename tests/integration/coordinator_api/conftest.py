import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fedge_coordinator.api.app import build_app
from fedge_coordinator.api.events import EventHub
from fedge_coordinator.api.server import serve
from fedge_coordinator.api.steering import StoreFleet
from fedge_coordinator.store import Store, open_store


@dataclass
class RunningApi:
    """The real API on a real Unix socket, over a store without rounds."""

    store: Store
    hub: EventHub
    socket: Path
    changed: list[str] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://coordinator", timeout=10)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningApi]:
    running = RunningApi(open_store(tmp_path / "store.db"), EventHub(), tmp_path / "api.sock")
    fleet = StoreFleet(running.store, "test", running.hub, on_change=running.changed.append)
    ready = asyncio.Event()
    serving = asyncio.create_task(serve(build_app(fleet, keepalive_s=0.05), running.socket, ready=ready))
    await ready.wait()
    yield running
    running.hub.close()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    running.store.close()
    assert not running.socket.exists()


@pytest.fixture
def document() -> dict[str, object]:
    return {
        "apiVersion": "fedge.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "digits"},
        "spec": {
            "model": {"input": 64, "layers": [{"dense": 10}], "loss": "softmax-cross-entropy"},
            "data": {"source": "digits", "kind": "directory"},
            "training": {"learningRate": 0.1, "clipNorm": 1},
            "cohort": {"minimum": 3, "target": 8, "allowSmallCohort": True},
            "rewards": {"perRound": "1000"},
            "rollout": {"rounds": 3},
        },
    }
