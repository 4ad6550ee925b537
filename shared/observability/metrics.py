"""The kernel's Prometheus metrics."""

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any, TypeVar

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

# All metrics. Labels are bounded: services, lanes, messages and kinds of jobs are names in the code, routes are
# templates. Gauges of shared state (the outbox's rows, jobs, dead letters) are equal in all processes of a service:
# take `max`. The broker exports the depth and the consumers of each lane (rabbitmq_detailed_queue_*), also of lanes
# without a process. It does not know the age of a lane's oldest message, which is therefore here.

Metric = TypeVar("Metric", Counter, Gauge, Histogram)
_children: dict[tuple[Any, ...], Any] = {}

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
OUTCOMES = ("done", "duplicate", "retried", "dead_lettered")
UNREADABLE = "unreadable"
"""The name of a message without a known name."""

MESSAGES = Counter(
    "malote_messages_total",
    "Messages taken from a lane, by outcome: done, duplicate, retried, dead_lettered.",
    ["service", "lane", "message", "outcome"],
)
ATTEMPTS = Histogram(
    "malote_attempts",
    "Attempts that a message took until it was done or dead-lettered.",
    ["service", "lane"],
    buckets=(1, 2, 3, 4, 5, 6, 10),
)
WAITING_SECONDS = Histogram(
    "malote_waiting_seconds",
    "From a message's being sent to the beginning of the handling that did it, earlier attempts included.",
    ["service", "lane", "message"],
    buckets=_SLOW,
)
HANDLING_SECONDS = Histogram(
    "malote_handling_seconds", "One call of a message's handler.", ["service", "lane", "message"], buckets=_QUICK
)
BATCH_SIZE = Histogram(
    "malote_batch_size",
    "Messages taken, committed and acknowledged together.",
    ["service", "lane"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCH_SECONDS = Histogram(
    "malote_batch_seconds", "From taking a batch to its acknowledgement.", ["service", "lane"], buckets=_QUICK
)
LANE_IN_HAND = Gauge(
    "malote_lane_in_hand", "Messages delivered to this process and not yet acknowledged.", ["service", "lane"]
)
LANE_OLDEST_SECONDS = Gauge(
    "malote_lane_oldest_seconds",
    "Since the oldest of those was sent; 0 without one. What still waits in the queue was mostly sent later.",
    ["service", "lane"],
)
LANE_RETRYING = Gauge(
    "malote_lane_retrying",
    "Messages that this process sent up the retry ladder and whose wait is not over.",
    ["service", "lane"],
)
LANE_PAUSED = Gauge(
    "malote_lane_paused",
    "1 while a lane waits for its database, its broker or the server that its work is done at.",
    ["service", "lane"],
)
DEAD_LETTERS = Gauge("malote_dead_letters", "Dead letters that wait to be replayed, edited or purged.", ["lane"])

PUBLISHED = Counter(
    "malote_published_total",
    "Messages given to the broker, by outcome: confirmed, refused.",
    ["service", "message", "outcome"],
)
OUTBOX_MESSAGES = Gauge("malote_outbox_messages", "Rows of the outbox: committed, not known as published.", ["service"])
OUTBOX_OLDEST_SECONDS = Gauge(
    "malote_outbox_oldest_seconds", "Since the outbox's oldest row was written; 0 without one.", ["service"]
)
OUTBOX_IN_HAND = Gauge("malote_outbox_in_hand", "Committed messages that this process has yet to publish.", ["service"])

JOBS = Gauge("malote_jobs", "Jobs without an end, by kind and state.", ["kind", "state"])
JOBS_OLDEST_SECONDS = Gauge("malote_jobs_oldest_seconds", "Since the oldest of those was asked for.", ["kind"])
JOBS_STARTED = Counter("malote_jobs_started_total", "Jobs that clients asked for.", ["kind"])
JOBS_ENDED = Counter("malote_jobs_ended_total", "Jobs that ended: SUCCESS, FAILURE, CANCELLED.", ["kind", "state"])
JOB_SECONDS = Histogram("malote_job_seconds", "From a job's being asked for to its end.", ["kind"], buckets=_SLOW)

HTTP_SECONDS = Histogram(
    "malote_http_seconds",
    "From a request to the beginning of its answer, without the time that its client asked to wait.",
    ["service", "method", "route", "status"],
    buckets=_QUICK,
)
HTTP_CONNECTIONS = Gauge("malote_http_connections", "Connections of clients that are open.")
HTTP_REFUSED = Counter(
    "malote_http_refused_total",
    "Connections closed for how they were used: malformed_request, headers_too_large, too_large, too_slow, stalled; "
    "or for their number: crowded.",
    ["why"],
)
LIMITS_ALONE = Gauge(
    "malote_limits_alone", "1 while a process counts requests by itself, as the Redis for all of them does not answer."
)
TASK_ENDED = Gauge(
    "malote_task_ended", "1 once a part that runs as long as its process has ended all the same.", ["service", "task"]
)


def of(metric: Metric, *labels: str) -> Metric:
    """A metric with these labels. Cached, because looking a metric up by labels costs more than counting."""
    key = (metric, *labels)
    found: Metric | None = _children.get(key)
    if found is None:
        found = _children[key] = metric.labels(*labels)
    return found


def expect(service: str, lane: str, messages: Iterable[str]) -> None:
    """Create the series of a lane with the value 0. A series that began with the first dead letter would show no
    rise."""
    for message in messages:
        for outcome in OUTCOMES:
            of(MESSAGES, service, lane, message, outcome)
    of(MESSAGES, service, lane, UNREADABLE, "dead_lettered")


class OfService(Collector):
    """The series of one of several services in a process. Series without a service's name, such as the process's
    memory, are exported by one of the services, so that they do not count twice."""

    def __init__(self, service: str, *, whole: bool) -> None:
        self._service, self._otherwise = service, service if whole else ""

    def collect(self) -> Iterator[Family]:
        """The metrics with the series of this service."""
        for metric in REGISTRY.collect():
            own = copy(metric)
            own.samples = [s for s in metric.samples if s.labels.get("service", self._otherwise) == self._service]
            yield own
