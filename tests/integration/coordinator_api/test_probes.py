import asyncio
import contextlib

import httpx
import pytest

from fedge_coordinator.api.probes import build_probes
from fedge_coordinator.api.server import SocketUnavailableError, listen_loopback, run
from fedge_coordinator.metrics import Metrics


async def test_metrics_and_health_answer_on_loopback():
    faults: list[str] = []
    app = build_probes(Metrics("0.1").registry, lambda: faults)
    listener = listen_loopback("127.0.0.1", 0)
    port = listener.getsockname()[1]
    serving = asyncio.create_task(run(app, listener))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        metrics = await client.get("/metrics")
        well = await client.get("/healthz")
        faults.append("broker unreachable since 17:03")
        ill = await client.get("/healthz")
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert "fedge_coordinator_build_info" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain")
    assert (well.status_code, well.text) == (200, "ok\n")
    assert (ill.status_code, ill.text) == (503, "broker unreachable since 17:03\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "localhost.example"])  # noqa: S104 - refused on purpose
def test_nothing_but_loopback_is_served(host: str):
    with pytest.raises(SocketUnavailableError):
        listen_loopback(host, 0)


def test_a_port_that_is_taken_is_named():
    with listen_loopback("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SocketUnavailableError, match=str(port)):
            listen_loopback("127.0.0.1", port)
