"""Traces: what has a span, what no span contains, and that nothing is loaded without a receiver."""

import subprocess
import sys
from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest
from django.db import connection as database
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connections import tasks, tracing
from connections.microsoft import http
from connections.models import User
from portal import setting_kinds
from portal import tracing as portal_tracing
from portal.sandbox.process import free_port
from tests.environment import ROOT
from tests.fake_receivers import web_server
from tests.test_settings import GOOD, problems_of, run


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    yield exporter
    provider.shutdown()


def text_of(span: ReadableSpan) -> str:
    return f"{span.name} {dict(span.attributes or {})} {span.status.description} {span.events}"


def test_a_call_to_microsoft_has_a_span_without_its_path_and_body(spans: InMemorySpanExporter) -> None:
    with web_server() as hooks:
        url = f"http://localhost:{hooks.port}/a-secret-tenant/oauth2/v2.0/token?a-secret-query"
        headers = (("Authorization", "Bearer a-secret-header"),)
        http.client().send(http.Request("POST", url, b"client_secret=a-secret-value", headers))
        hooks.status = 400
        http.client().send(http.Request("GET", f"http://localhost:{hooks.port}/v1.0/users/a-secret-name"))
    http.client().send(http.Request("GET", f"http://localhost:{free_port()}/v1.0/me"))
    token, graph, nothing = spans.get_finished_spans()
    assert (token.name, token.status.is_ok, dict(token.attributes or {})["server.address"]) == (
        "POST Microsoft token", True, "localhost",
    )  # fmt: skip
    assert (token.end_time or 0) > (token.start_time or 0)
    assert [dict(span.attributes or {}).get("error.type") for span in (token, graph, nothing)] == [
        None, "501", "no_response",
    ]  # fmt: skip
    assert "a-secret" not in "".join(map(text_of, (token, graph, nothing)))


@pytest.mark.django_db
def test_a_statement_has_a_span_without_its_parameters(spans: InMemorySpanExporter) -> None:
    with database.execute_wrapper(tracing.trace_query):
        assert not User.objects.filter(username="a-secret-name").exists(), "outside a request there is no span"
        with tracing.span("task"):
            assert not User.objects.filter(username="a-secret-name").exists()
    statement, task = spans.get_finished_spans()
    assert (statement.name, statement.parent and statement.parent.span_id) == ("SELECT", task.context.span_id)
    assert "connections_user" in text_of(statement)
    assert "a-secret-name" not in text_of(statement)


def test_a_failed_block_is_marked_without_its_message(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a-secret"), tracing.span("block"):
        raise ValueError("a-secret-message")
    (span,) = spans.get_finished_spans()
    assert (span.status.is_ok, dict(span.attributes or {})) == (False, {"error.type": "ValueError"})
    assert "a-secret" not in text_of(span)


def test_another_thread_continues_the_trace(spans: InMemorySpanExporter) -> None:
    def work() -> None:
        tracing.set_route("GET", "/people/<pk>/")
        with tracing.span("inner"):
            pass

    with tracing.span("outer"):
        tracing.carry_into(Context()).run(work)
    inner, outer = spans.get_finished_spans()
    assert (inner.name, outer.name) == ("inner", "GET /people/<pk>/")
    assert inner.parent
    assert inner.parent.span_id == outer.context.span_id


# redis-py loads what is installed of OpenTelemetry, but not its exporter.
_LOADED = """
import sys, portal.asgi, portal.celery, connections.tasks
sys.exit(int(any(name in sys.modules for name in ("portal.tracing", "opentelemetry.exporter"))))
"""


def test_without_a_receiver_nothing_is_loaded() -> None:
    assert not tracing.is_on()
    with tracing.span("nothing") as span:
        assert span is None
    process = subprocess.run([sys.executable, "-c", _LOADED], cwd=ROOT, check=False)
    assert process.returncode == 0


def test_a_receiver_without_the_packages_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    process = run("-c", "from portal import settings", **GOOD, OTEL_EXPORTER_OTLP_ENDPOINT="localhost:4318")
    assert dict(problems_of(process))["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith(
        "doesn't start with https:// or http://."
    )
    monkeypatch.setattr(setting_kinds, "_is_installed", lambda package: False)
    with pytest.raises(ValueError, match=r"pip install --require-hashes -r requirements-tracing.txt"):
        setting_kinds._check_traces("http://localhost:4318")
    assert setting_kinds._check_traces("") == ""


def test_only_existing_packages_count_as_installed() -> None:
    installed: Any = setting_kinds._is_installed
    assert installed("opentelemetry.exporter.otlp.proto.http")
    assert not installed("opentelemetry.exporter.nothing.of.this")


def test_a_task_that_fails_has_a_failed_span_without_its_message(spans: InMemorySpanExporter) -> None:
    for number, result in enumerate((None, ValueError("a-secret-message"))):
        portal_tracing._begin_task(str(number), tasks.sweep)
        with tracing.span("inside"):
            pass
        portal_tracing._end_task(str(number), retval=result)
    inside, good, _, bad = spans.get_finished_spans()
    assert (good.name, good.status.is_ok, bad.status.is_ok) == ("task sweep", True, False)
    assert inside.parent
    assert inside.parent.span_id == good.context.span_id
    assert bad.parent is None, "the task before is not its parent"
    assert dict(bad.attributes or {}) == {"error.type": "ValueError"}
    assert "a-secret" not in text_of(bad)
    portal_tracing._end_task("unknown")
