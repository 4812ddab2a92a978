"""What `runworker --metrics-port` serves: the counts of this worker, and how it stands. It needs prometheus_client."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

import djtasks
from djtasks.models.metric import Figures
from djtasks.monitoring import families, labels
from djtasks.worker.counters import received
from djtasks.worker.health import judged
from djtasks.worker.keeper import Keeper
from djtasks.worker.slots import clock

logger = logging.getLogger("djtasks.worker")

HEAR_EVERY: Final = 0.2  # seconds
PATIENCE: Final = 5.0  # seconds for a client to say what it wants
USERS_OWN: Final = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus_client keeps the metrics of the site's own code


class WorkerCollector:
    """The worker of that keeper; what its processes count is heard from `descriptor`."""

    def __init__(self, keeper: Keeper, descriptor: int) -> None:
        self._keeper = keeper
        self._descriptor = descriptor
        self._figures: dict[tuple[str, str], Figures] = {}
        self._queues: set[str] = set()
        self._lock = threading.Lock()  # scrapes come in threads of their own

    def hear(self) -> None:
        """Add what has come in."""
        with self._lock:
            for task, queue, figures in received(self._descriptor):
                self._add(task, queue, figures)

    def _add(self, task: str, queue: str, figures: Figures) -> None:
        if queue not in self._queues and len(self._queues) == labels.MOST_QUEUES:
            queue = labels.OTHER
        else:
            self._queues.add(queue)
        self._figures[task, queue] = self._figures.get((task, queue), Figures()) + figures

    def describe(self) -> list[Metric]:
        """Nothing, so that nobody collects just to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        self.hear()
        with self._lock:
            figures = dict(self._figures)
        yield families.jobs("djtasks_worker_jobs", "Jobs that ended in this worker, tries among them.", figures)
        yield families.runs("djtasks_worker_run_seconds", "How long they ran.", figures)
        yield families.waits("djtasks_worker_wait_seconds", "How long they had been ready when they began.", figures)
        options = self._keeper.options
        about = {"hostname": options.hostname, "pool": options.pool, "version": djtasks.__version__}
        yield InfoMetricFamily("djtasks_worker", "This worker.", value=about)
        for name, text, value in self._gauges():
            if value is not None:
                yield GaugeMetricFamily(f"djtasks_worker_{name}", text, value=value)

    def _gauges(self) -> Iterator[tuple[str, str, float | None]]:
        slots = self._keeper.slots
        indexes = [index for index in range(slots.count) if slots.owner(index)]
        started = [run.since for index in indexes for run in slots.running(index).values()]
        memory = self._keeper.memory
        yield "processes", "Processes that run jobs.", len(indexes)
        yield "places", "Jobs that it can run at a time.", len(indexes) * slots.runs
        yield "busy_places", "Of these, how many are taken.", sum(map(slots.busy, indexes))
        yield (
            "longest_run_seconds",
            "How long that job has run by now that began first.",
            _age(min(started, default=None)),
        )
        yield "beat_age_seconds", "Since it last reached broker and database.", _finite(slots.beat_age())
        yield "claim_age_seconds", "Since that process last asked for jobs which waits for any.", slots.longest_wait()
        yield "memory_bytes", "Memory of all its processes, what they share counted once.", memory and memory * 1024


def serve(keeper: Keeper) -> threading.Thread:
    """Serve /metrics and /health of the keeper's worker in a thread; see `options.scrape`."""
    assert keeper.options.scrape is not None  # noqa: S101 - the caller's condition
    listens, hears, _sends = keeper.options.scrape
    collector = WorkerCollector(keeper, hears)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    if os.environ.get(USERS_OWN):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    server = _Server(
        listens,
        collector.hear,
        {"/metrics": lambda accept: _metrics(registry, accept), "/health": lambda _accept: _health(keeper)},
    )
    thread = threading.Thread(target=server.serve_forever, args=(HEAR_EVERY,), name="djtasks-metrics", daemon=True)
    thread.start()
    return thread


Answer = tuple[HTTPStatus, str, bytes]  # with the type of its content


class _Server(ThreadingHTTPServer):
    """Serves by a socket that listens already, and hears counts between the requests.

    Each request has a thread: who connects and says nothing must not keep a probe waiting.
    """

    def __init__(self, listens: int, hear: Callable[[], None], pages: dict[str, Callable[[str], Answer]]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=os.dup(listens))
        self._hear = hear
        self.pages = pages

    def service_actions(self) -> None:
        try:
            self._hear()
        except Exception:  # whatever it is, the next scrape is to be answered
            logger.exception("Counts of the worker's processes could not be read")

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("A scrape from %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status, content_type, body = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("Scraped: %s", format % args)


def _metrics(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return HTTPStatus.OK, content_type, encode(registry)


def _health(keeper: Keeper) -> Answer:
    problem = judged(keeper.slots).problem
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    return status, "text/plain; charset=utf-8", f"{problem or 'well'}\n".encode()


def _age(since: float | None) -> float:
    return 0.0 if since is None else clock() - since


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds
