"""The control panel, which has a button for each command of the control API."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.csrf import csrf_protect

from portal.sandbox import adminconsent, control, fault_injection, request_log
from portal.sandbox.control_commands import Refused
from portal.sandbox.state import EVERYBODY, App, World, world

TEXT = ("upn", "client_id", "id", "pem", "tenant", "address", "kind", "where", "retry_after", "name", "exchange_role")
LISTS = ("members", "inbox_members", "senders", "mailboxes", "exchange_mailboxes")
WHOLE = ("sign_in_frequency_s", "delay_ms", "times", "seconds")
TRUTH = (
    "disabled",
    "deleted",
    "mfa_required",
    "password_expired",
    "ca_blocked",
    "admin",
    "licensed",
    "user_consent",
    "all_mailboxes",
    "all_senders",
)


@csrf_protect
def panel(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        try:
            name = request.POST.get("verb", "")
            answer = control.run(name, _fields(request.POST))
            done = f"Done: {name.replace('_', ' ')}."
            if "value" in answer:
                done = f"Secret added. ID: {answer['id']}. The value is in the list below."
            outcome = {"done": done}
        except Refused as problem:
            outcome = {"problem": str(problem)}
        place = request.POST.get("place", "")
        return HttpResponseRedirect(f"/_control/?{urlencode(outcome)}{'#' + place if place.isidentifier() else ''}")
    here = world()
    context = _context(here) | {"done": request.GET.get("done"), "problem": request.GET.get("problem")}
    return render(request, "sandbox/control.html", context)


def _fields(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's fields from a form, converted to their types. Raises Refused for an invalid number.

    Items of lists are separated by spaces, commas or line breaks.
    """
    fields: dict[str, Any] = {}
    for name, value in form.items():
        text = str(value).strip()
        if name in TRUTH:
            fields[name] = text == "true"
        elif name in WHOLE and text:
            try:
                fields[name] = int(text)
            except ValueError:
                raise Refused(f"{name} must be a whole number.") from None
        elif name in LISTS:
            fields[name] = text.replace(",", " ").split()
        elif name in TEXT and text:
            fields[name] = text
    return fields


def _context(here: World) -> dict[str, Any]:
    people = list(here.people.values())
    names = {person.id: person.upn for person in people} | {EVERYBODY: "everybody (admin consent)"}
    return {
        "world": here,
        "now": here.now(),
        "directories": list(here.directories.values()),
        "people": [(person, here.directories[person.tenant]) for person in people],
        "apps": [_app_row(here, app, names) for app in here.apps.values()],
        "mailboxes": list(here.mailboxes.values()),
        "kinds": fault_injection.KINDS,
        "places": fault_injection.PLACES,
        "weather": fault_injection.faults.report(),
        "lies": adminconsent.LIES,
        "calls": request_log.log.snapshot(limit=15),
    }


def _app_row(here: World, app: App, names: dict[str, str]) -> dict[str, Any]:
    given = [
        {
            "who": names.get(consent.person, consent.person),
            "upn": "" if consent.person == EVERYBODY else names.get(consent.person, ""),
            "tenant": here.directories[consent.tenant],
            "scopes": consent.scopes,
        }
        for consent in here.consents.values()
        if consent.client_id == app.client_id
    ]
    roles = [
        {"tenant": here.directories[grant.tenant], "roles": grant.roles}
        for grant in here.role_grants.values()
        if grant.client_id == app.client_id and grant.roles
    ]
    return {
        "app": app,
        "directory": here.directories[app.tenant],
        "consents": given,
        "roles": roles,
        "secrets": [{"secret": secret, **_expiry(here, secret.expires_at)} for secret in app.secrets],
        "certificates": [
            {"certificate": certificate, **_expiry(here, certificate.expires_at)} for certificate in app.certificates
        ],
    }


def _expiry(here: World, moment: float) -> dict[str, Any]:
    day = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
    return {"expires": day, "expired": moment <= here.now()}
