"""Faults on demand: outages, throttling, and hanging or broken responses.

``exposed`` wraps every view that simulates Microsoft. It logs the call, and may respond with a fault instead.
"""

import contextlib
import functools
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import Any

from django.http import HttpRequest, HttpResponse

from portal.sandbox import errors, request_log
from portal.sandbox.state import world

KINDS = {
    "normal": "no faults",
    "unavailable": "503 with an HTML page, as a proxy in front of Microsoft sends it",
    "error": "500 with the JSON of a transient failure (AADSTS90033 or a Graph error)",
    "hang": "accept the request, wait for delay_ms (default 60 s), then close the connection",
    "broken_json": "200 with incomplete JSON",
    "empty_504": "504 with an empty body",
    "throttle": "429 with Retry-After in the format set by retry_after",
    "loop": "400 invalid_grant AADSTS50196, the token endpoint's loop detection",
    "slow": "the correct response after delay_ms",
    "refuse": "close the connection without a response",
    "html": "200 with an HTML page, as a proxy's sign-in page",
    "reset": "break off in the middle of the response",
    "twice": "handle the request twice, as if the network had repeated it",
}
PLACES = ("token", "graph", "batch", "login", "everything")  # batch: the parts of a Graph batch, for throttling only
# Each hanging request occupies a thread, and some threads must stay free for the control API.
MOST_HANGING = 40


@dataclass
class Fault:
    kind: str
    where: str = "everything"
    retry_after: str = "5"  # a number, a decimal number, "missing" or "date"
    delay_ms: int = 0
    times: int = 0  # responses left; 0 means no limit
    until: float = 0.0  # monotonic time; 0 means no limit
    client_id: str = ""  # only requests of this app are affected (token endpoint); "" means all apps


class Faults:
    """The active faults, and their effect on requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._faults: list[Fault] = []
        self._hanging = 0

    def set(self, fault: Fault) -> None:
        """Set a fault, replacing others in the same place. ``normal`` removes faults and releases hanging requests."""
        with self._lock:
            keep = [other for other in self._faults if fault.where not in ("everything", other.where)]
            self._faults = keep if fault.kind == "normal" else [*keep, fault]
            self._changed.set()
            self._changed = threading.Event()

    def report(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def over(self, where: str, client_id: str = "") -> Fault | None:
        """Return the fault for this request; None if there is none. Counts the response if their number is limited."""
        if not self._faults:
            return None
        with self._lock:
            now = time.monotonic()
            self._faults = [fault for fault in self._faults if not fault.until or fault.until > now]
            for fault in self._faults:
                if fault.where not in ("everything", where) or fault.client_id not in ("", client_id):
                    continue
                if fault.times:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                return fault
        return None

    def hang(self, seconds: float) -> None:
        """Block the calling thread until the faults change, the sandbox stops, or the time has passed."""
        with self._lock:
            if self._hanging >= MOST_HANGING:
                return
            self._hanging += 1
            changed = self._changed
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not world().stopping.is_set():
                if changed.wait(min(0.2, max(0.0, end - time.monotonic()))):
                    break
        finally:
            with self._lock:
                self._hanging -= 1


faults = Faults()


def _throttled(fault: Fault, where: str) -> HttpResponse:
    content: dict[str, Any]
    if where == "graph":
        content = {"error": {"code": "TooManyRequests", "message": "The server is busy. Please try again later."}}
    else:
        content = {
            "error": "temporarily_unavailable",
            "error_description": "AADSTS90055: The server is terminating the request because it has received too many "
            "requests.",
            "error_codes": [90055],
        }
    response = HttpResponse(json.dumps(content), status=429, content_type="application/json; charset=utf-8")
    if fault.retry_after == "date":
        response["Retry-After"] = formatdate(time.time() + 5, usegmt=True)
    elif fault.retry_after != "missing":
        response["Retry-After"] = fault.retry_after
    return response


def _entra_error(code: int, error: str, text: str, status: int) -> HttpResponse:
    problem = errors.EntraError(code, text, error, status)
    content = errors.body(problem, errors.Trace.of(), world().now(), world().public_url)
    return HttpResponse(json.dumps(content), status=status, content_type="application/json; charset=utf-8")


def _drop(request: HttpRequest) -> HttpResponse:
    connection = request.META.get("gunicorn.socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # the caller may have disconnected in the meantime
            connection.shutdown(socket.SHUT_RDWR)
    return HttpResponse(status=503)


def _break_off(request: HttpRequest) -> HttpResponse:
    connection = request.META.get("gunicorn.socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n\r\n"
            connection.sendall(head + b'{"token_type":"Bearer","expires_in":3599,"acc')
    return _drop(request)


def _answer(request: HttpRequest, fault: Fault, where: str) -> HttpResponse | None:
    """Return the faulty response, or None to run the view."""
    if fault.kind == "slow":
        faults.hang(fault.delay_ms / 1000)
        return None
    if fault.kind == "twice":
        return None
    if fault.kind == "html":
        return HttpResponse("<html><body><h1>Sign in to the network</h1></body></html>")
    if fault.kind == "reset":
        return _break_off(request)
    if fault.kind == "unavailable":
        page = "<html><head><title>503 Service Temporarily Unavailable</title></head><body><center><h1>503 Service "
        return HttpResponse(page + "Temporarily Unavailable</h1></center></body></html>", status=503)
    if fault.kind == "error":
        if where == "graph":
            content = json.dumps({"error": {"code": "UnknownError", "message": ""}})
            return HttpResponse(content, status=500, content_type="application/json")
        return _entra_error(90033, "temporarily_unavailable", "A transient error has occurred. Please try again.", 503)
    if fault.kind == "broken_json":
        return HttpResponse('{"token_type":"Bearer","expires_in":3599,"acc', content_type="application/json")
    if fault.kind == "empty_504":
        return HttpResponse(status=504)
    if fault.kind == "throttle":
        return _throttled(fault, where)
    if fault.kind == "loop":
        problem = errors.refusal(50196)
        return _entra_error(problem.code, problem.error, problem.text, problem.status)
    if fault.kind == "hang":
        faults.hang(fault.delay_ms / 1000 or 60)
    return _drop(request)


def valid_retry_after(text: str) -> bool:
    """Whether this is a supported value for Retry-After."""
    if text in ("date", "missing"):
        return True
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


View = Callable[..., HttpResponse]


def exposed(where: str) -> Callable[[View], View]:
    """Return a decorator that logs calls of a view as endpoint ``where`` and injects the faults for it."""

    def wrap(view: View) -> View:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            meta = request.META
            connection = f"{meta.get('REMOTE_ADDR')}:{meta.get('REMOTE_PORT')}"
            call = request_log.log.begin(where, request.method or "", request.path, connection)
            request.sandbox_call = call  # type: ignore[attr-defined]
            status = 0
            try:
                client_id = request.POST.get("client_id", "") if where == "token" and faults.report() else ""
                fault = faults.over(where, client_id)
                answer = _answer(request, fault, where) if fault is not None else None
                if answer is not None and fault is not None:
                    call.outcome = f"weather:{fault.kind}"
                    call.client_id = client_id
                    if fault.kind in ("hang", "refuse", "reset"):
                        return answer
                else:
                    if fault is not None and fault.kind == "twice":
                        view(request, *args, **kwargs)
                    answer = view(request, *args, **kwargs)
                status = answer.status_code
                return answer
            finally:
                request_log.log.end(call, status)

        return wrapped

    return wrap
