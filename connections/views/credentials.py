"""Pages about client secrets and certificates. None of them ever shows a secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import MicrosoftRefused, PortalError
from connections.forms import credentials as credential_forms
from connections.forms.credentials import CredentialForm
from connections.microsoft import certificates, credential_expiry
from connections.models import AppCredential, AppRegistration, Connection, User
from connections.services.expiry import forecast
from connections.services.registry import credential_checks, credentials

UPLOAD_FIRST = "The certificate is made. Download its public part, upload it in Entra, then press “I uploaded it”."
UNTRIED = "The credential is saved but not tried yet, because Microsoft could not be asked. Try it later."

EXPIRES_SOON = timedelta(days=30)

# The form's field for what a service calls an entry.
_FIELDS = {credential_forms.SECRET: "secret", credential_forms.UPLOAD: "certificate_file"}


# --- On the page of the app registration ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """One credential as its table shows it."""

    credential: AppCredential
    facts: certificates.CertificateDetails | None
    days_left: int | None
    is_waiting: bool
    # A newer one that Microsoft accepts and that lasts longer; this one is no longer needed.
    replaced_by: AppCredential | None = None

    @property
    def warns(self) -> bool:
        """Whether it expires within 30 days (or has)."""
        return self.days_left is not None and self.days_left <= EXPIRES_SOON.days

    @property
    def remaining(self) -> str:
        """The time left in words."""
        if self.days_left is None:
            return "no expiry date known"
        if self.days_left < 0:
            return "expired"
        return (
            "less than a day left" if self.days_left == 0 else f"{self.days_left} day{'s'[: self.days_left != 1]} left"
        )


def panel(app: AppRegistration, now: datetime) -> dict[str, Any]:
    """Context of apps/credentials/_panel.html: the credentials in the order they are tried, and how they stand."""
    listed = rows(app, now)
    live = [row.credential for row in listed if row.credential.retired_at is None]
    return {
        "credentials": listed,
        "lasting": forecast.credential_lifetime(live),
        "first": next((credential for credential in live if forecast.is_usable(credential)), None),
        "rejected": [credential for credential in live if credential.rejected_at is not None],
        "dates_are_read": any(credential.expiry_read_at for credential in live),
        "permission": credential_expiry.PERMISSION,
    }


def rows(app: AppRegistration, now: datetime) -> list[CredentialRow]:
    """Live credentials in the order they are tried, then the retired ones."""
    found = app.credentials.defer("secret", "private_key").order_by("retired_at", "-created_at", "-pk")
    live = credential_checks.in_trial_order(credential for credential in found if credential.retired_at is None)
    retired = [credential for credential in found if credential.retired_at is not None]
    return [
        CredentialRow(
            credential,
            certificates.read_details(credential.certificate) if credential.certificate else None,
            (credential.expires_at - now).days if credential.expires_at else None,
            credential.retired_at is None and credential_checks.awaits_upload(credential),
            forecast.successor(credential, live),
        )
        for credential in [*live, *retired]
    ]


# --- Adding and retiring --------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    """Add a credential beside those there are; the newest one is used first once Microsoft accepts it."""
    user = cast(User, request.user)
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    roles.require(permissions.can_manage_registry(user))
    form = CredentialForm(request.POST or None, request.FILES or None)
    can_skip = False
    if form.is_valid():
        allow_untried = "save_untried" in request.POST
        try:
            made = credentials.add(
                app,
                credentials.credential_from_form(form.cleaned_data, name=app.name),
                actor=user,
                allow_untried=allow_untried,
            )
        except MicrosoftRefused as error:
            can_skip = error.status == 503
            show_refusal(error, form)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            report(request, made)
            return redirect("app", app.pk)
    return render(request, "apps/credentials/add.html", {"form": form, "app": app, "can_skip": can_skip})


@require_POST
def next_certificate(request: HttpRequest, pk: int) -> HttpResponse:
    """Make the next certificate ahead of time; nothing that is in use changes."""
    user = cast(User, request.user)
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    roles.require(permissions.can_manage_registry(user))
    made = credentials.next_certificate(app, actor=user)
    messages.info(request, f"{made} is ready. Until Microsoft has accepted it, everything goes on as before.")
    return redirect(f"{reverse('app', args=[app.pk])}#credentials")


@require_http_methods(["GET", "HEAD", "POST"])
def retire(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Ask, then retire a credential for good."""
    user = cast(User, request.user)
    app, credential = _found(user, pk, credential_pk)
    roles.require(permissions.can_manage_registry(user))
    if request.method == "POST":
        credentials.retire(credential, actor=user)
        messages.success(request, f"{credential} is retired and its secret part deleted.")
        return redirect("app", app.pk)
    others = app.credentials.filter(retired_at=None).exclude(pk=credential.pk).defer("secret", "private_key")
    accepted = [
        other for other in others if other.verified_at and forecast.is_usable(other) and not other.has_expired()
    ]
    context = {
        "app": app,
        "credential": credential,
        "others": list(others),
        "next": next(iter(credential_checks.in_trial_order(accepted)), None),
        "waiting": app.connections.exclude(status=Connection.Status.DISABLED).count(),
    }
    return render(request, "apps/credentials/retire.html", context)


@require_safe
def certificate(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Download the public part of a certificate: DER (.cer), or PEM with ``?format=pem``."""
    user = cast(User, request.user)
    app, credential = _found(user, pk, credential_pk)
    roles.require(permissions.can_read_registry(user))
    if not credential.certificate:
        raise Http404
    name = f"{slugify(app.name) or 'app'}-{credential.thumbprint[:8].lower()}"
    if request.GET.get("format") == "pem":
        response = HttpResponse(credential.certificate, content_type="application/x-pem-file")
        response["Content-Disposition"] = f'attachment; filename="{name}.pem"'
        return response
    der = x509.load_pem_x509_certificate(credential.certificate.encode()).public_bytes(Encoding.DER)
    response = HttpResponse(der, content_type="application/pkix-cert")
    response["Content-Disposition"] = f'attachment; filename="{name}.cer"'
    return response


def show_refusal(error: MicrosoftRefused, form: CredentialForm, app_form: forms.Form | None = None) -> None:
    """Put Microsoft's answer next to the entry it speaks of. Secrets are not rendered back: say so."""
    sentence = str(error)
    if app_form is not None and error.field in app_form.fields:
        app_form.add_error(error.field, sentence)
        return
    field = _FIELDS.get(form.cleaned_data.get("kind", "")) if error.field == "credential" else None
    form.add_error(field, sentence)


def report(request: HttpRequest, credential: AppCredential) -> None:
    """Say what came of adding a credential."""
    if credential.verified_at:
        messages.success(request, "Microsoft accepts the new credential.")
    elif credential.kind == AppCredential.Kind.CERTIFICATE:
        messages.info(request, UPLOAD_FIRST)
    else:
        messages.warning(request, UNTRIED)


def _found(user: User, pk: int, credential_pk: int) -> tuple[AppRegistration, AppCredential]:
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    mine = app.credentials.defer("secret", "private_key").select_related("app_registration")
    return app, get_object_or_404(mine, pk=credential_pk)
