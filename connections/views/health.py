import contextlib
import ipaddress

import redis
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from connections.errors import DatabaseUnavailable
from connections.services.operations import checks, clocks, doctor, health
from connections.services.operations import metrics as metrics_of_all_processes

_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Confirm that the process is running, without using the database or the broker."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Check everything that the portal depends on. The status is 200 or 503, and the body lists each part."""
    clocks.report("web")
    parts = {part.name: part.result for part in checks.run(check for check in doctor.CHECKS if check.is_for_readiness)}
    ready = all(result.is_working for result in parts.values())
    details = {name: {"ok": result.is_working, "detail": result.detail} for name, result in parts.items()}
    return JsonResponse({"ready": ready, "parts": details}, status=200 if ready else 503)


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return Prometheus metrics to callers with the METRICS_TOKEN. Without that setting, only to localhost."""
    if not _may_read(request):
        text = "Send METRICS_TOKEN as a bearer token.\n"
        return HttpResponse(text, status=401, content_type="text/plain", headers={"WWW-Authenticate": "Bearer"})
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    try:
        measures = list(health.metrics())
    except DatabaseError:
        headers = {"Retry-After": str(DatabaseUnavailable.retry_after)}
        text = f"{DatabaseUnavailable.cause}\n"
        return HttpResponse(text, status=DatabaseUnavailable.status, content_type="text/plain", headers=headers)
    for measure in measures:
        gauge = gauges.get(measure.name)
        if gauge is None:
            names = [name for name, _ in measure.labels]
            gauge = gauges[measure.name] = Gauge(measure.name, measure.help, names, registry=registry)
        (gauge.labels(**dict(measure.labels)) if measure.labels else gauge).set(measure.value)
    with contextlib.suppress(redis.RedisError, OSError):
        registry.register(_Collected(list(metrics_of_all_processes.collect())))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Collected(Collector):
    """Metrics that have already been collected, in the form that a registry expects."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _may_read(request: HttpRequest) -> bool:
    token: str = getattr(settings, "METRICS_TOKEN", "")
    if token:
        return constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {token}")
    if any(name in request.headers for name in _FORWARDED):
        return False  # the request came through a proxy, which may run on this machine, so the client may be anywhere
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
