"""What the server counts, for Prometheus; never who called or what was said."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hyperasr.service.engine import Engine

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The counters of one server.

    Args:
        engine: whose batches and queue are shown.
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
        self.live = Gauge("hyperasr_live_sessions", "Live connections.", registry=registry)
        shown = {
            "hyperasr_waiting": ("Recordings that wait or are worked on.", "n_waiting"),
            "hyperasr_segments": ("Segments decoded.", "n_segments"),
            "hyperasr_batches": ("Batches decoded.", "n_batches"),
        }
        for name, (text, attribute) in shown.items():
            gauge = Gauge(name, text, registry=registry)
            gauge.set_function(lambda attribute=attribute: float(getattr(engine, attribute)))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: as it is declared, not as it was called.
            status: of HTTP; 0 where the client left before.
            seconds: that it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self._registry)
