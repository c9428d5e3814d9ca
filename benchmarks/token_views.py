"""An empty view, and the token call as one would write it first."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import include, path
from django.utils import timezone

from connections.access import permissions, querysets
from connections.models import ApiKey, TokenFetch
from connections.services.api_keys.api_keys import digest


@login_not_required
def empty(request: HttpRequest) -> HttpResponse:
    """Nothing."""
    return HttpResponse(b"{}", content_type="application/json")


@login_not_required
def naive(request: HttpRequest, pk: int) -> HttpResponse:
    """The same checks, with whole objects and a row for each call."""
    text = request.headers["Authorization"].removeprefix("Bearer ")
    key = get_object_or_404(ApiKey.objects.select_related("owner"), digest=digest(text), revoked_at=None)
    key.last_used_at = timezone.now()
    key.save(update_fields=["last_used_at"])
    connection = get_object_or_404(querysets.visible_connections(key.owner), pk=pk)
    if not permissions.can_fetch_token(key.owner, connection) or connection.status != "active":
        return HttpResponse(status=403)
    TokenFetch.objects.create(
        key=None, key_name=key.name, owner_name="", connection=connection, connection_name="", minute=timezone.now()
    )
    body = {"access_token": connection.access_token, "token_type": "Bearer", "expires_at": connection.expires_at}
    return JsonResponse(body | {"scope": connection.granted_scopes})


urlpatterns = [path("empty", empty), path("naive/<int:pk>", naive), path("", include("portal.urls"))]
