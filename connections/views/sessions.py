"""The user's own sessions, and ending all sessions of another person."""

from django.contrib import auth, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.services.people import sessions
from connections.session_store import digest_of


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    context = {
        "sessions": sessions.open_sessions(user, now=timezone.now()),
        "this": digest_of(request.session.session_key or ""),
    }
    return render(request, "sessions/index.html", context)


@require_POST
def end(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    digest = request.POST.get("session", "").replace("\0", "")  # PostgreSQL rejects NUL in a text
    sessions.end(user, digest, actor=user, now=timezone.now())
    if digest == digest_of(request.session.session_key or ""):
        auth.logout(request)
        return redirect("sign_in")
    messages.success(request, "Session was signed out.")
    return redirect("sessions")


@require_POST
def end_all(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    sessions.end_all(user, actor=user, now=timezone.now())
    auth.logout(request)
    return redirect("sign_in")


@require_POST
def end_all_of_person(request: HttpRequest, pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    cause = "Only IT admins can sign out other people."
    roles.require(permissions.can_manage_people(user), cause=cause, action="Ask one.")
    person = get_object_or_404(querysets.visible_people(user), pk=pk)
    count = sessions.end_all(person, actor=user, now=timezone.now())
    messages.success(request, f"{person} is signed out everywhere. Sessions ended: {count}.")
    if person.pk == user.pk:
        return redirect("sign_in")
    return redirect("person", pk=pk)
