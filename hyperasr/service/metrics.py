"""What the server counts, for Prometheus; never who called or what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hyperasr.service.engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The counters of one server.

    Args:
        engine: whose batches and queue are shown.
    Attributes:
        audio_s: length of the recordings that were transcribed, in seconds.
        n_live: live connections that are open.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("route", "status")
        self._requests = Counter(
            "hyperasr_requests", "Requests answered.", labels, registry=registry
        )
        self._seconds = Histogram(
            "hyperasr_request_seconds",
            "Time to the end of an answer.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.audio_s = Counter(
            "hyperasr_audio_seconds", "Length of the recordings transcribed.", registry=registry
        )
        self.n_live = 0
        shown: dict[str, tuple[str, Callable[[], float]]] = {
            "hyperasr_live_sessions": ("Live connections.", lambda: self.n_live),
            "hyperasr_waiting": ("Recordings that wait or are decoded.", lambda: engine.n_waiting),
            "hyperasr_segments": ("Segments decoded.", lambda: engine.n_segments),
            "hyperasr_batches": ("Batches decoded.", lambda: engine.n_batches),
        }
        for name, (text, value) in shown.items():
            Gauge(name, text, registry=registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: as it is declared, not as it was called.
            status: of HTTP; 0 where the client left before.
            seconds: that it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    @contextmanager
    def live_session(self) -> Iterator[None]:
        """Count a live connection for the length of the block."""
        self.n_live += 1
        try:
            yield
        finally:
            self.n_live -= 1

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._registry)
