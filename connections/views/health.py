import ipaddress

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from connections import client_address
from connections.services.operations import health


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Confirm that the process is alive, without using the database or the broker."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Check everything the portal depends on. The status is 200 or 503; the body lists each part."""
    parts = health.run_checks()
    ready = all(part.ok for part in parts)
    details = {part.name: {"ok": part.ok, "detail": part.detail} for part in parts}
    return JsonResponse({"ready": ready, "parts": details}, status=200 if ready else 503)


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return Prometheus metrics to callers with the METRICS_TOKEN, or only to localhost if it is not set."""
    if not _may_read(request):
        text = "Send METRICS_TOKEN as a bearer token.\n"
        return HttpResponse(text, status=401, content_type="text/plain", headers={"WWW-Authenticate": "Bearer"})
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for measure in health.metrics():
        gauge = gauges.get(measure.name)
        if gauge is None:
            names = [name for name, _ in measure.labels]
            gauge = gauges[measure.name] = Gauge(measure.name, measure.help, names, registry=registry)
        (gauge.labels(**dict(measure.labels)) if measure.labels else gauge).set(measure.value)
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _may_read(request: HttpRequest) -> bool:
    token: str = getattr(settings, "METRICS_TOKEN", "")
    if token:
        return constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {token}")
    if "X-Forwarded-For" in request.headers and not settings.TRUSTED_PROXIES:
        # The request came through a local proxy that is not configured, so the client is not on this machine.
        return False
    try:
        return ipaddress.ip_address(client_address.client_address(request) or "").is_loopback
    except ValueError:
        return False
