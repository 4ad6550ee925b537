"""Traces: one from the request to the mail, over HTTP, database, outbox and broker.

Without a collector, OpenTelemetry's SDK is not loaded, and each function here costs one look at a context variable.
`traceparent` is then passed on unchanged, so that the traces of other systems stay connected.

A context variable says which service a span belongs to, because a process can run several services.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextvars import Context, ContextVar, Token, copy_context
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import context, trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.base import Envelope
from shared.config.settings import ServiceSettings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

STATEMENT_LENGTH = 500
FLUSH_SECONDS = 3.0
"""How long a stopping service waits for the collector to accept the last spans."""

QUIET = ("/livez", "/readyz", "/metrics")
"""Routes that are requested all the time: they have no spans and no log lines."""

_TABLE = re.compile(r"\b(?:INTO|FROM|UPDATE)\s+\"?(\w+)", re.IGNORECASE)
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

tracer_of_service: ContextVar[trace.Tracer | None] = ContextVar("tracer", default=None)
"""The tracer of the service that runs in this context; None without tracing."""

in_hand: ContextVar[Envelope | None] = ContextVar("in_hand", default=None)
"""The message that is being handled: its ids go into every log line."""


class Tracing:
    """The tracing of a service. It is off without `otlp_endpoint`."""

    def __init__(self, settings: ServiceSettings, version: str) -> None:
        self._tracer: trace.Tracer | None = None
        if settings.otlp_endpoint:
            from shared.observability.otlp import exporting

            self._provider, self._exporter = exporting(settings, version)
            self._tracer = self._provider.get_tracer("malote", version)

    @property
    def fastapi(self) -> TelemetryConfig:
        """Settings for FastAPI, which makes the spans of requests itself. Its metrics and logs are off."""
        config: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
        if self._tracer:
            return {**config, "tracer_provider": self._provider, "exclude": _is_quiet}
        return {**config, "tracing": False}

    def context(self) -> Context:
        """A context for tasks, in which all spans are this service's."""
        own = copy_context()
        own.run(tracer_of_service.set, self._tracer)
        return own

    def of_request(self, given: str | None, query: bytes) -> str:
        """The `traceparent` of the current request. From here on, the spans of the request are this service's."""
        tracer_of_service.set(self._tracer)
        span = trace.get_current_span()
        if query:  # the query of a search has names and addresses, that of a signed link its signature
            span.set_attribute("url.query", "REDACTED")
        return _carried_by(span, given)

    def watch(self, engines: Iterable[AsyncEngine]) -> None:
        """Make a span of each statement, below the current one. It does not contain values."""
        if self._tracer:
            for engine in engines:
                _watch(engine)

    async def stop(self) -> None:
        """Export the last spans, if the collector accepts them in time."""
        if self._tracer:
            hurry = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._exporter.shutdown)
            await asyncio.to_thread(self._provider.shutdown)
            hurry.cancel()


def _is_quiet(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in QUIET


def follow(traceparent: str | None) -> str:
    """A valid W3C `traceparent` as it came, or a new one, so that all messages of a request share a trace."""
    if _TRACEPARENT.fullmatch(traceparent or ""):
        return str(traceparent)
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def trace_id(traceparent: str | None = None) -> str | None:
    """The id of the trace in a `traceparent`, or of the current trace; None without a trace."""
    if tracer_of_service.get() is None:
        return None
    found = _context_of(traceparent) if traceparent else trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None


class handling:  # noqa: N801 - reads as what it is: `with handling(…):`
    """Around the handling of a message: log lines have its ids, and its span is the current one.

    Yields the envelope, as the cause of the messages that the handler sends. The span is below the message's own span,
    and linked to the batch.
    """

    __slots__ = ("_envelope", "_is_before", "_lane", "_span")

    def __init__(self, lane: str, envelope: Envelope) -> None:
        self._lane, self._envelope = lane, envelope
        self._span: _Current | None = None

    def __enter__(self) -> Envelope:
        self._is_before = in_hand.set(self._envelope)
        tracer = tracer_of_service.get()
        if tracer is None:
            return self._envelope
        batch = trace.get_current_span().get_span_context()
        span = tracer.start_span(
            f"process {self._lane}",
            _below(self._envelope.traceparent),
            SpanKind.CONSUMER,
            _about("process", self._lane, self._envelope) | {"malote.attempt": self._envelope.attempt},
            [Link(batch)] if batch.is_valid else [],
        )
        self._span = _Current(span).__enter__()
        return replace(self._envelope, traceparent=_carried_by(span, self._envelope.traceparent))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        in_hand.reset(self._is_before)
        if self._span:
            self._span.__exit__(kind, error, where)


@contextlib.contextmanager
def together(name: str, traceparents: Sequence[str | None]) -> Iterator[None]:
    """A span for several messages at once, such as a transaction: below the first message, and linked to the others."""
    tracer = tracer_of_service.get()
    if tracer is None:
        yield
        return
    found = [parent for traceparent in traceparents if (parent := _context_of(traceparent)).is_valid]
    first = next((parent for parent in found if parent.trace_flags.sampled), found[0] if found else None)
    links = [Link(parent) for parent in found if parent is not first]
    attributes = {"messaging.batch.message_count": len(traceparents)}
    with _Current(tracer.start_span(name, _below_context(first), attributes=attributes, links=links)):
        yield


def step(name: str, attributes: dict[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """A span for a call to another system, if the current work is traced."""
    tracer = tracer_of_service.get()
    if tracer is None or not trace.get_current_span().is_recording():
        return _NOTHING
    return _Current(tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


_NOTHING = contextlib.nullcontext()


def current(default: str | None) -> str:
    """The `traceparent` for a call to another system: that of the current span, or the given one."""
    span = trace.get_current_span()
    return _carried_by(span, default) if tracer_of_service.get() and span.is_recording() else follow(default)


def created(exchange: str, envelope: Envelope) -> Envelope:
    """The envelope of a new message with the `traceparent` of a span for its creation, below the span of its cause."""
    tracer = tracer_of_service.get()
    if tracer is None:
        passed = follow(envelope.traceparent)
        return envelope if passed == envelope.traceparent else replace(envelope, traceparent=passed)
    destination = f"{exchange}:{envelope.key}"
    parent, about = _below(envelope.traceparent), _about("create", destination, envelope)
    span = tracer.start_span(f"create {destination}", parent, SpanKind.PRODUCER, about)
    span.end()
    return replace(envelope, traceparent=_carried_by(span, envelope.traceparent))


def sent(exchange: str, envelope: Envelope, since: int, error: BaseException | None) -> None:
    """Record that a message was published or refused. It was sent to the broker at `since` (epoch nanoseconds)."""
    tracer, cause = tracer_of_service.get(), _context_of(envelope.traceparent)
    if tracer is None or not cause.is_valid:
        return
    destination = f"{exchange}:{envelope.key}"
    waited = max(0.0, since / 1e9 - envelope.sent_at.timestamp())
    parent, about = _below_context(cause), _about("send", destination, envelope)
    about["malote.outbox.seconds"] = waited
    span = tracer.start_span(f"send {destination}", parent, SpanKind.CLIENT, about, start_time=since)
    if error:
        _mark(span, error)
    span.end()


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Record nothing inside the block, which is periodic work of a process."""
    token = tracer_of_service.set(None)
    try:
        yield
    finally:
        tracer_of_service.reset(token)


def now() -> int:
    """Epoch nanoseconds, as in spans; 0 without tracing."""
    return time.time_ns() if tracer_of_service.get() else 0


class _Current:
    """A span that is the current one until it ends. It has the name of an error, not its text, which may contain
    values."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token: Token[context.Context] = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if error:
            _mark(self._span, error)
        self._span.end()


def _mark(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR))


def _about(operation: str, destination: str, envelope: Envelope) -> dict[str, Any]:
    """https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/"""
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": destination,
        "messaging.rabbitmq.destination.routing_key": envelope.key,
        "messaging.message.id": envelope.message_id,
        "messaging.message.conversation_id": envelope.correlation_id,
    }


def _carried_by(span: Span, given: str | None) -> str:
    """The `traceparent` of a span; the given one without a span, as with `OTEL_SDK_DISABLED`."""
    of = span.get_span_context()
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}" if of.is_valid else follow(given)


def _context_of(traceparent: str | None) -> SpanContext:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if not found:
        return trace.INVALID_SPAN_CONTEXT
    trace_, span, flags = found.groups()
    return SpanContext(int(trace_, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1))


def _below(traceparent: str | None) -> context.Context:
    return _below_context(_context_of(traceparent))


def _below_context(parent: SpanContext | None) -> context.Context:
    """A context in which the span of a `traceparent` is the parent, whatever the current span is."""
    return trace.set_span_in_context(NonRecordingSpan(parent or trace.INVALID_SPAN_CONTEXT), context.Context())


def _watch(engine: AsyncEngine) -> None:
    about = database(engine.url)

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def begin(connection: Any, _: Any, statement: str, values: Any, execution: Any, many: bool) -> None:
        tracer = tracer_of_service.get()
        if tracer is None or not trace.get_current_span().is_recording():
            return
        operation, table = statement.split(maxsplit=1)[0].upper(), _TABLE.search(statement)
        text = statement if len(statement) <= STATEMENT_LENGTH else f"{statement[:STATEMENT_LENGTH]}…"
        attributes = {**about, "db.operation.name": operation, "db.query.text": text}
        if table:
            attributes["db.collection.name"] = table[1]
        if many:
            attributes["db.operation.batch.size"] = len(values)
        name = f"{operation} {table[1] if table else about['db.namespace']}"
        connection.info["span"] = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def end(connection: Any, *_: Any) -> None:
        if span := connection.info.pop("span", None):
            span.end()

    @event.listens_for(engine.sync_engine, "handle_error")
    def fail(failure: Any) -> None:
        span = failure.connection and failure.connection.info.pop("span", None)
        if span:
            _mark(span, failure.original_exception)
            span.end()


def database(url: URL) -> dict[str, Any]:
    """The attributes of a database, without its login."""
    system = url.get_backend_name()
    name = (url.database or "").rpartition("/")[2] if system == "sqlite" else url.database or ""
    about: dict[str, Any] = {"db.system.name": system, "db.namespace": name}
    return about | ({"server.address": url.host, "server.port": url.port or 5432} if url.host else {})
