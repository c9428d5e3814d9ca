"""Load the object a view is about, and show errors that services raise.

An error is shown next to a form field, or as a message after a button was pressed:

    if form.is_valid():
        with errors_on(form):
            team = teams.create(**form.cleaned_data, actor=user)
            return done(request, f"{team} is there.", "team", pk=team.pk)
    return render_form(request, "teams/form.html", form)

    with errors_as_messages(request):
        approvals.withdraw(approval, actor=user)
        messages.success(request, "Request was withdrawn.")
    return redirect("approval", pk=pk)
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

from django import forms
from django.contrib import messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from connections.access import roles
from connections.errors import NotAllowed, PortalError
from connections.models import User
from connections.services.policy.four_eyes import SecondPersonNeeded

M = TypeVar("M", bound=Model)


def get_visible(request: HttpRequest, visible: Callable[[User], QuerySet[M]], pk: int) -> tuple[User, M]:
    """Return the signed-in user and the object with this key. Raises Http404 if the user cannot see the object."""
    user = roles.current_user(request.user)
    return user, get_object_or_404(visible(user), pk=pk)


class errors_on(AbstractContextManager[None, bool]):  # noqa: N801 - reads like contextlib.suppress
    """Show a PortalError next to its form field, or above the form. SecondPersonNeeded passes through."""

    def __init__(self, form: forms.Form) -> None:
        self.form = form

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, PortalError) or isinstance(error, SecondPersonNeeded):
            return False
        self.form.add_error(error.field if error.field in self.form.fields else None, str(error))
        return True


class errors_as_messages(AbstractContextManager[None, bool]):  # noqa: N801 - reads like contextlib.suppress
    """Turn a PortalError into a message. NotAllowed and SecondPersonNeeded have pages of their own and pass through."""

    def __init__(self, request: HttpRequest, *, level: int = messages.WARNING) -> None:
        self.request, self.level = request, level

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, PortalError) or isinstance(error, NotAllowed | SecondPersonNeeded):
            return False
        messages.add_message(self.request, self.level, str(error))
        return True


def render_form(
    request: HttpRequest, template: str, form: forms.Form, context: dict[str, Any] | None = None
) -> HttpResponse:
    """Render a page with ``form``. The status is 422 if the form has errors."""
    return render(request, template, {"form": form, **(context or {})}, status=422 if form.errors else 200)


def done(request: HttpRequest, text: str, page: str, **kwargs: Any) -> HttpResponse:
    """Show a success message and redirect to ``page``, which is the name of a URL, with its arguments."""
    messages.success(request, text)
    response: HttpResponse = redirect(page, **kwargs)
    return response
