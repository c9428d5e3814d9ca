from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from connections.access import querysets
from connections.forms.connections import TagsForm
from connections.models import Connection
from connections.services.connections import tags
from connections.views.form_handling import done, get_visible


def panel(connection: Connection) -> dict[str, Any]:
    """Return the context for connections/_tags.html."""
    names = list(connection.tags.values_list("name", flat=True))
    return {"tags": names, "tags_form": TagsForm(initial={"tags": ", ".join(names)})}


@require_POST
def change(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    form = TagsForm(request.POST)
    if form.is_valid():
        tags.replace(connection, form.cleaned_data["tags"], actor=user)
        return done(request, "Tags saved.", "connection", pk=pk)
    messages.error(request, f"The tags weren't saved. {' '.join(map(str, form.errors['tags']))}")
    return redirect("connection", pk=pk)
