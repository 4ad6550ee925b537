"""Trace context across HTTP and the broker, and the kernel's Prometheus metrics."""

import re
import secrets

from prometheus_client import Counter, Gauge, Histogram

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


def follow(traceparent: str | None) -> str:
    """The next W3C `traceparent`: the same trace if the given one is valid, a new one if not."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    trace, flags = match.groups() if match else (secrets.token_hex(16), "01")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"


MESSAGES = Counter(
    "malote_messages_total",
    "Messages taken from a lane, by outcome: done, duplicate, retried, dead_lettered.",
    ["lane", "message", "outcome"],
)
BATCH_SIZE = Histogram(
    "malote_batch_size", "Messages in one transaction.", ["lane"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
BATCH_SECONDS = Histogram("malote_batch_seconds", "From taking a batch to its acknowledgement.", ["lane"])
PUBLISHED = Counter("malote_published_total", "Messages confirmed by the broker.", ["service"])
OUTBOX_WAITING = Gauge("malote_outbox_in_hand", "Committed messages that this process has yet to publish.", ["service"])
LANE_PAUSED = Gauge("malote_lane_paused", "1 while a lane waits for its database or broker.", ["lane"])
HTTP_SECONDS = Histogram("malote_http_seconds", "HTTP requests.", ["service", "method", "route", "status"])
