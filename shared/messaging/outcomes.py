"""The outcome of a message: one log line and one count."""

from typing import Any

import structlog

from contracts.base import Envelope
from contracts.flow import service_of
from shared.observability import metrics, tracing

log = structlog.get_logger(__name__)


def log_outcome(lane: str, outcome: str, envelope: Envelope | None, **more: Any) -> None:
    """Log the outcome of a message in one line, and count it."""
    key, service = envelope.key if envelope else metrics.UNREADABLE, service_of(lane)
    metrics.of(metrics.MESSAGES, service, lane, key, outcome).inc()
    if envelope and outcome in ("done", "dead_lettered"):
        metrics.of(metrics.ATTEMPTS, service, lane).observe(envelope.attempt)
    if envelope:
        more |= {"message_id": envelope.message_id, "correlation_id": envelope.correlation_id}
        more |= {"attempt": envelope.attempt}
        if trace_id := tracing.trace_id(envelope.traceparent):
            more["trace_id"] = trace_id
    (log.info if outcome in ("done", "duplicate") else log.warning)(outcome, lane=lane, message=key, **more)
