"""Saving and forgetting views of the audit trail."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections.access import permissions, roles
from connections.errors import AlreadyExists
from connections.forms.audit import ViewForm
from connections.models import User
from connections.services.audit import saved_filters


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """Keep the current filter under a name."""
    user = _reader(request)
    form = ViewForm(request.POST)
    query = ""
    if not form.is_valid():
        messages.error(request, "The view was not saved: give it a name of at most 120 letters.")
    else:
        query = form.cleaned_data["query"]
        try:
            view = saved_filters.save(name=form.cleaned_data["name"], query=query, actor=user, now=timezone.now())
            messages.success(request, f"The view “{view}” is saved. Only you see it.")
        except AlreadyExists as error:
            messages.error(request, str(error))
    return redirect(f"{reverse('audit')}?{query}")


@require_POST
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Forget a view of one's own."""
    user = _reader(request)
    view = get_object_or_404(user.audit_views, pk=pk)
    saved_filters.remove(view, actor=user)
    messages.success(request, f"The view “{view}” is gone; the events are not touched.")
    return redirect("audit")


def _reader(request: HttpRequest) -> User:
    user = roles.current_user(request.user)
    roles.require(permissions.can_read_audit(user), action="Ask an IT admin or an auditor.")
    return user
