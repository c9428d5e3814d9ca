"""How a view shows what a service refuses: beside the form's field, or as a message after a button.

A form:

    if form.is_valid():
        with errors_on(form):
            team = teams.create(**form.cleaned_data, actor=user)
            return redirect("team", pk=team.pk)
    return render_form(request, "teams/form.html", form)

A button:

    with errors_as_messages(request):
        approvals.withdraw(approval, actor=user)
        messages.success(request, "The request is withdrawn.")
    return redirect("approval", pk=pk)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from connections.errors import NotAllowed, PortalError


@contextmanager
def errors_on(form: forms.Form) -> Iterator[None]:
    """Put a PortalError beside the field it names, or above the form."""
    try:
        yield
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error))


@contextmanager
def errors_as_messages(request: HttpRequest, *, level: int = messages.WARNING) -> Iterator[None]:
    """Turn a PortalError into a message. NotAllowed passes through to the page "403"."""
    try:
        yield
    except NotAllowed:
        raise
    except PortalError as error:
        messages.add_message(request, level, str(error))


def render_form(
    request: HttpRequest, template: str, form: forms.Form, context: dict[str, Any] | None = None
) -> HttpResponse:
    """Render a page with ``form``; the status is 422 when the form has errors."""
    return render(request, template, {"form": form, **(context or {})}, status=422 if form.errors else 200)
