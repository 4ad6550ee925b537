"""A collector of the tests' own: it takes spans by OTLP over HTTP, and keeps them."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Taken:
    """A span as it came over the wire. Ids are in hexadecimal; `parent_id` is empty for a trace's first."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    has_failed: bool


class Collector:
    """Where it listens, and what it took so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Taken] = []
        self.bodies: list[bytes] = []

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_taken(about["service.name"], span) for span in scope.spans]

    def traces(self) -> set[str]:
        return {span.trace_id for span in self.spans}

    def named(self, name: str) -> list[Taken]:
        return [span for span in self.spans if span.name == name]


@contextlib.contextmanager
def collecting(shown: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """A collector on a free port; with TLS if it has a certificate to show."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not on the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    if shown:
        server.socket = shown.wrap_socket(server.socket, server_side=True)
    collector = Collector(f"http{'s' if shown else ''}://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _taken(service: str, span: Any) -> Taken:
    return Taken(
        service,
        span.name,
        span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(link.span_id.hex() for link in span.links),
        _plain(span.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in attributes}
