"""Spans of OpenTelemetry, once portal/tracing.py has started them. Otherwise a span costs a comparison and nothing more.

A span never contains a URL's path or query, a header, a body, a parameter of SQL or the message of an exception: those
may hold secrets. Its attributes are only what the callers of these functions name.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Attributes = Mapping[str, str | int | float | bool]

_MOST_TEXT = 2000  # characters of an SQL statement

_tracer: "Tracer | None" = None


def start(tracer: "Tracer") -> None:
    """Let the functions below make spans with this tracer."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str, attributes: Attributes | None = None, *, is_server: bool = False, parent: Any = None
) -> Iterator[Any]:
    """Measure the block; yields the span, or None. ``parent`` is a context of OpenTelemetry (default: the current one)."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind

    kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
    with _tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            fail(current, type(error).__name__)
            raise


def record_call(name: str, seconds: float, attributes: Attributes, *, error: str = "") -> None:
    """Record a call to another service that has just ended and took ``seconds``."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind

    end = time.time_ns()
    call = _tracer.start_span(name, None, SpanKind.CLIENT, attributes, start_time=end - int(seconds * 1e9))
    if error:
        fail(call, error)
    call.end(end)


def fail(failed: "Span", reason: str) -> None:
    """Mark the span as failed; ``reason`` is a status or the name of an exception."""
    from opentelemetry.trace import StatusCode

    failed.set_attribute("error.type", reason)
    failed.set_status(StatusCode.ERROR)


def set_route(method: str | None, route: str) -> None:
    """Name the current request's span by its route, which contains the names of parameters, but not their values."""
    if _tracer is None:
        return
    from opentelemetry.trace import get_current_span

    current = get_current_span()
    current.update_name(f"{method} {route}")
    current.set_attribute("http.route", route)


def carry_into(context: Context) -> Context:
    """Make the current span the parent of what will run in ``context``. Returns the context."""
    if _tracer is not None:
        from opentelemetry import context as current

        context.run(current.attach, current.get_current())
    return context


def trace_query(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
    """An execute wrapper of Django: a span for a statement inside another span, without its parameters."""
    from opentelemetry.trace import get_current_span

    if not get_current_span().is_recording():
        return execute(sql, params, many, context)
    text = str(sql)
    attributes = {"db.system.name": context["connection"].vendor, "db.query.text": text[:_MOST_TEXT]}
    with span(text.split(maxsplit=1)[0].upper() if text else "SQL", attributes):
        return execute(sql, params, many, context)
