"""`/metrics` and `/healthz`, for a loopback port: no request changes anything, and no answer names a device."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, exposition
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Faults = Callable[[], list[str]]
"""What keeps the coordinator from working, each in a line; empty when it is well."""


def build_probes(registry: CollectorRegistry, faults: Faults) -> Starlette:
    """The app: `/metrics` in Prometheus or OpenMetrics text, `/healthz` 200 `ok` or 503 with the faults."""

    async def metrics(request: Request) -> Response:
        encoder, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(registry), headers={"Content-Type": content_type})

    async def healthz(_request: Request) -> Response:
        found = faults()
        return PlainTextResponse("\n".join(found or ["ok"]) + "\n", status_code=503 if found else 200)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)])
