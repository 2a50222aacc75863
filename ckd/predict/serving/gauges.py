"""What `/metrics` shows of a server: counts, seconds and sizes, nothing of a visit."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_VISITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Gauges:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.answered = self.scored = 0  # requests of /predict with status 200; visits that went through the model
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("ckd_serve_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "ckd_serve_request_seconds", "From request to answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._visits = Counter("ckd_serve_visits", "Visits scored", registry=self.registry)
        dropped = "Visits that were not scored, since nobody waited for the answer any more"
        self._dropped = Counter("ckd_serve_visits_dropped", dropped, registry=self.registry)
        self._batch = Histogram(
            "ckd_serve_batch_visits", "Visits that were scored together", buckets=_VISITS, registry=self.registry
        )
        self._queue = Gauge("ckd_serve_queue_visits", "Visits that wait for the model", registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One answered request. `route` is one of the server's own, never a path that a client made up."""
        self.answered += route == "/predict" and status == 200
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, visits: int) -> None:
        """One call of the model."""
        self.scored += visits
        self._visits.inc(visits)
        self._batch.observe(visits)

    def dropped(self, visits: int) -> None:
        """A request that nobody waited for any more when its turn came."""
        self._dropped.inc(visits)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Set where the queue's length is read when the page is made."""
        self._queue.set_function(waiting)

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
