"""What Microsoft reads to check the portal's assertions. Anybody may read it: it contains public keys only."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from connections.services.registry import issuer

MAX_AGE = 3600  # seconds; much shorter than a key is published before its first use


@login_not_required
@cache_control(public=True, max_age=MAX_AGE)
@require_safe
def openid_configuration(request: HttpRequest) -> HttpResponse:
    return JsonResponse(issuer.discovery_document())


@login_not_required
@cache_control(public=True, max_age=MAX_AGE)
@require_safe
def jwks(request: HttpRequest) -> HttpResponse:
    return JsonResponse(issuer.published_keys())
