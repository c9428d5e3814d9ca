from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections.access import roles
from connections.forms.saved_views import SavedViewForm
from connections.models import SavedView, User
from connections.services.people import saved_views
from connections.views.form_handling import done, errors_as_messages


def panel(user: User, page: str, query: str) -> dict[str, Any]:
    """Return the context for partials/saved_views.html and partials/save_view.html on the list ``page``."""
    return {
        "views": saved_views.views_of(user, page),
        "view_form": SavedViewForm(initial={"page": page, "query": query}),
        "query": query,
    }


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """Save the filters of a list, and redirect to the list."""
    user, form = roles.current_user(request.user), SavedViewForm(request.POST)
    page, query = request.POST.get("page", ""), ""
    if not form.is_valid():
        messages.error(request, "The view wasn't saved. Enter a name of up to 120 characters.")
    else:
        query = form.cleaned_data["query"]
        with errors_as_messages(request):
            view = saved_views.save(**form.cleaned_data, actor=user, now=timezone.now())
            messages.success(request, f"View “{view}” saved. Only you can see it.")
    return redirect(f"{reverse(page if page in SavedView.Page.values else 'home')}?{query}")


@require_POST
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    view = get_object_or_404(user.saved_views, pk=pk)
    saved_views.remove(view, actor=user)
    return done(request, f"View “{view}” deleted.", view.page)
