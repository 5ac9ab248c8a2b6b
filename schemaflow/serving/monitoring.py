"""What a server counts, for Prometheus."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

__all__ = ["Counted", "Metrics"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Requests and their seconds by path, rows of each call of the graph, and newer bundles.

    Example:
        >>> metrics = Metrics()
        >>> metrics.batch(3)
        >>> "schemaflow_batch_rows_sum 3.0" in metrics.text().decode()
        True
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter("schemaflow_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "schemaflow_request_seconds", "From a request to its answer.", ["path"], buckets=SECONDS, registry=registry
        )
        self._rows = Histogram("schemaflow_batch_rows", "Rows of a call of the graph.", buckets=ROWS, registry=registry)
        self._reloads = Counter("schemaflow_reloads", "Newer bundles, by outcome.", ["outcome"], registry=registry)
        for outcome in ("loaded", "refused"):
            self._reloads.labels(outcome)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; `path` is the route's, so that no client can make up labels."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, rows: int) -> None:
        """Count a call of the graph."""
        self._rows.observe(rows)

    def reload(self, outcome: str) -> None:
        """Count a newer bundle: "loaded" or "refused"."""
        self._reloads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus's text form."""
        return generate_latest(self._registry)


class Counted:
    """An ASGI application whose requests are counted.

    Args:
        app: The application.
        metrics: Counts.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when it is answered."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.request(path, status, time.perf_counter() - began)
        return None
