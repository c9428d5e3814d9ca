"""Traces of OpenTelemetry, sent to OTEL_EXPORTER_OTLP_ENDPOINT by OTLP over HTTP. Without it, nothing here is imported.

The packages are in requirements-tracing.txt. The instrumentations for Django, Celery and psycopg are not used: they
record URLs, which can hold codes of sign-ins and sign-in links, and messages of exceptions.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from celery.signals import task_postrun, task_prerun
from django.conf import settings
from django.db.backends.signals import connection_created
from opentelemetry import context as current_context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from connections import tracing
from connections.middleware import PROBES
from portal.wsgi_bridge import Message, Receive, Scope, Send

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_provider: TracerProvider | None = None
_running_tasks: dict[str, Any] = {}  # task id -> the context manager of its span


def start(process: str) -> None:
    """Start the traces of this process: web or worker. OpenTelemetry's own variables configure the rest (sampling)."""
    global _provider
    names = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or "connection-portal"}
    facts = {SERVICE_VERSION: settings.VERSION, "portal.process": process}
    _provider = TracerProvider(resource=Resource.create({**names, **facts}))
    endpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip("/")
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
    tracing.start(_provider.get_tracer("portal", settings.VERSION))
    connection_created.connect(_trace_queries, weak=False)
    if process == "worker":
        task_prerun.connect(_begin_task, weak=False)
        task_postrun.connect(_end_task, weak=False)


def stop() -> None:
    """Send the spans that are left."""
    if _provider is not None:
        _provider.shutdown()


def trace_requests(application: Application) -> Application:
    """Wrap an ASGI application: a span for each request. Its name is the route, which Django or the token call sets."""

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await application(scope, receive, send)
            return
        parent = TraceContextTextMapPropagator().extract(_Headers(scope), getter=_GETTER)
        facts = {"http.request.method": scope["method"]}
        with tracing.span(str(scope["method"]), facts, is_server=True, parent=parent) as span:

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_response(span, message)
                await send(message)

            await application(scope, receive, watch)

    return traced


def _note_response(span: Any, message: Message) -> None:
    span.set_attribute("http.response.status_code", message["status"])
    if message["status"] >= 500:
        tracing.fail(span, str(message["status"]))
    for name, value in message.get("headers", ()):
        if name == b"x-request-id":  # as in the logs
            span.set_attribute("portal.request_id", value.decode("latin-1"))


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self.headers = scope["headers"]


class _Getter:
    """Reads a trace's id from the headers of a request (W3C Trace Context)."""

    def get(self, carrier: _Headers, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier.headers if name == wanted] or None

    def keys(self, carrier: _Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier.headers]


_GETTER: Any = _Getter()


def _trace_queries(connection: Any, **kwargs: Any) -> None:
    if tracing.trace_query not in connection.execute_wrappers:
        connection.execute_wrappers.append(tracing.trace_query)


def _begin_task(task_id: str, task: Any, **kwargs: Any) -> None:
    current_context.attach(current_context.Context())  # what a thread ran before is not this task's parent
    block = tracing.span(f"task {task.name.rpartition('.')[2]}")
    block.__enter__()
    _running_tasks[task_id] = block


def _end_task(task_id: str, retval: Any = None, **kwargs: Any) -> None:
    block = _running_tasks.pop(task_id, None)
    if block is not None:
        error = retval if isinstance(retval, Exception) else None
        try:
            block.__exit__(type(error) if error else None, error, None)
        except Exception as raised:
            if raised is not error:
                raise
