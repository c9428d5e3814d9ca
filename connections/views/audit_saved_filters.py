from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections.errors import AlreadyExists
from connections.forms.audit import SavedFilterForm
from connections.services.audit import saved_filters
from connections.views.audit import audit_reader


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    form = SavedFilterForm(request.POST)
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
    user = audit_reader(request)
    view = get_object_or_404(user.audit_views, pk=pk)
    saved_filters.remove(view, actor=user)
    messages.success(request, f"The view “{view}” is gone; the events are not touched.")
    return redirect("audit")
