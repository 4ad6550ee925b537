"""Exports spans to a collector, by OTLP over HTTP. Loaded only if there is one, because the SDK takes time and memory.

Without its collector, spans are lost and orders are not.
"""

import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Any

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from requests.adapters import HTTPAdapter

from shared.config.settings import ServiceSettings
from shared.config.tls import Tls

log = structlog.get_logger(__name__)

EXPORT_SECONDS = 3.0
"""How long the collector may take to accept spans."""


class _Trusting(HTTPAdapter):
    """Uses the same TLS context as all connections of a service."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._tls.context, **options)

    def cert_verify(self, *_: Any) -> None:
        """Do nothing: the context verifies, and the library would add its own authorities to the context."""


class Exporter(SpanExporter):
    """Logs once that the collector does not answer, and once that it answers again.

    The library reads further settings from the environment, such as `OTEL_EXPORTER_OTLP_HEADERS` for a login.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        assert settings.otlp_endpoint
        self._host = settings.otlp_endpoint.host
        session = requests.Session()
        session.trust_env = False  # no proxy is used between services and collector
        session.mount("https://", _Trusting(settings.tls))
        url = f"{str(settings.otlp_endpoint).rstrip('/')}/v1/traces"
        self._inner = OTLPSpanExporter(url, timeout=EXPORT_SECONDS, session=session)
        self._is_gone = self._is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        is_gone = result is not SpanExportResult.SUCCESS
        if is_gone and not self._is_gone:
            log.warning("traces: the collector does not take them", collector=self._host)
        elif self._is_gone and not is_gone:
            log.info("traces: the collector takes them again", collector=self._host)
        self._is_gone = is_gone
        return result

    def shutdown(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self._inner.shutdown()  # type: ignore[no-untyped-call]


def exporting(settings: ServiceSettings, version: str) -> tuple[TracerProvider, Exporter]:
    """The maker of a service's spans, and what exports them: in the background, from a bounded queue."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the library logs a line for each try
    exporter = Exporter(settings)
    about = {
        "service.namespace": "malote",
        "service.name": settings.name,
        "service.version": version,
        "service.instance.id": f"{socket.gethostname()}-{secrets.token_hex(4)}",
    }
    provider = TracerProvider(
        resource=Resource.create(about),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
        span_limits=SpanLimits(max_links=settings.batch_limit),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, exporter
