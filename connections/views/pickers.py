"""Suggestions for the form fields in forms/pickers.py."""

from collections.abc import Callable

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections.access import permissions, querysets, roles, search
from connections.forms import pickers
from connections.models import Team, User
from connections.services.api_keys import rate_limit

PER_MINUTE = 120  # requests for suggestions per user
# The people that a field suggests, whether it suggests teams, and who may use it.
SOURCES: dict[str, tuple[Callable[[], QuerySet[User]], bool, Callable[[User], bool]]] = {
    "recipients": (querysets.accounts, True, permissions.can_look_up_people),
    "owners": (querysets.possible_owners, False, permissions.can_look_up_people),
    "people": (querysets.people, False, permissions.can_manage_people),
}


@require_safe
def suggestions(request: HttpRequest, source: str) -> HttpResponse:
    """Return up to search.MOST matches for the text ``q``, as JSON: ``{"items": [{"key": …, "label": …}]}``."""
    user = roles.current_user(request.user)
    if source not in SOURCES:
        raise Http404
    people, with_teams, is_allowed = SOURCES[source]
    roles.require(is_allowed(user), action="Ask an IT admin.")
    state = rate_limit.count(f"picker:{user.pk}", limit=PER_MINUTE, now=timezone.now())
    if state is not None and state.is_exceeded:
        return JsonResponse({"items": []}, status=429, headers={"Retry-After": str(state.reset)})
    text = " ".join(request.GET.get("q", "").replace("\x00", "").split())[: pickers.LENGTH]
    teams = querysets.visible_teams(user) if with_teams else Team.objects.none()
    return JsonResponse({"items": pickers.suggestions(search.suggest(text, people(), teams))})
