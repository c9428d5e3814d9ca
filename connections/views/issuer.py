"""The documents that Microsoft needs to verify the portal's assertions. They are public and have only public keys."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from connections.services.registry import issuer

MAX_AGE = 3600  # seconds; keys are published much longer than this before their first use


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
